"""Batchflow as real processes, started as an operator starts them."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import grpc
from redis import Redis

from batchflow.stack import process_commands
from batchflow.stack.processes import free_port
from tests.kit.deliveries import SECRET
from tests.kit.emulator import Emulator, EmulatorServer
from tests.kit.flyte_client import FlyteClient
from tests.kit.processes import Process, Ready, RedisServer, Server, clean_environment, stop_all

#: In seconds; each is far below its default.
TIMINGS = {
    "BATCHFLOW_POLL_INTERVAL_S": "0.3",
    "BATCHFLOW_SWEEP_INTERVAL_S": "0.3",
    "BATCHFLOW_SETTLE_S": "0.5",
    "BATCHFLOW_DELETE_DELAY_S": "0",
    "BATCHFLOW_LEASE_S": "2",
    "BATCHFLOW_OPENAI_TIMEOUT_S": "5",
}
#: With webhooks, no test waits for a poll.
_RARE_POLLS = {"BATCHFLOW_POLL_INTERVAL_S": "600"}
#: The variables with the API key, for the workers alone: Flyte's names for `FLYTE_OPENAI_API_KEY`,
#: and for `api_key` in the group `openai-api-key`. A shell can't export the second one.
KEY_VARIABLES = ("_FSEC_FLYTE_OPENAI_API_KEY", "_FSEC_OPENAI-API-KEY_API_KEY")

_EMULATOR_OPTIONS: Mapping[str, object] = {
    "validating-s": 0.1,
    "in-progress-s": 0.3,
    "per-request-s": 0,
    "finalizing-s": 0.1,
    "cancelling-s": 0.1,
}


class StackBase:
    """Makes the processes of one installation. The caller starts them.

    :param variables: what all processes have in their environment, in addition to a clean one.
    """

    log_level = "DEBUG"

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        #: The blob storage of the tests; workers may access no other files.
        self.blobs = folder / "blobs"
        temporary = folder / "tmp"
        for path in (self.blobs, temporary):
            path.mkdir(parents=True)
        self.variables = {
            "BATCHFLOW_ALLOWED_URIS": f"{self.blobs}/",
            "FLYTE_SDK_LOGGING_LEVEL": "10",
            "FLYTE_SDK_RICH_TRACEBACKS": "0",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary),
            **variables,
        }

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a process."""
        return {**clean_environment(), **self.variables, **(more or {})}

    def make_worker(
        self,
        name: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        ready: Ready = lambda worker: worker.logged(" ready."),
    ) -> Process:
        """A Celery worker with the default pool, on all queues unless an option says otherwise."""
        command = process_commands.worker(concurrency=4, log_level=self.log_level)
        named = [*command, "--pool", "prefork", "-n", f"{name}@%h", *options]
        return self._process(name, named, env, ready=ready)

    def make_beat(
        self,
        name: str,
        env: Mapping[str, str] | None = None,
        ready: Ready | None = lambda beat: beat.logged("beat: Starting"),
    ) -> Process:
        """Celery's scheduler."""
        return self._process(name, process_commands.beat(log_level=self.log_level), env, ready)

    def make_connector(
        self, name: str, *modules: str, env: Mapping[str, str] | None = None
    ) -> Server:
        """flytekit's gRPC server with the connectors of these modules, in this order."""
        port = free_port()
        # Without the modules of the product's command.
        command = list(process_commands.connector(port, free_port()))[:-2]
        for module in modules or ("batchflow_connector",):
            command += ["--modules", module]
        return self._server(name, command, port, env, ready=lambda _: _serves(port))

    def make_gateway(self, name: str, env: Mapping[str, str] | None = None) -> Server:
        """`batchflow gateway`."""
        port = free_port()
        return self._server(name, process_commands.gateway(port), port, env)

    def make_emulator(
        self, name: str, options: Mapping[str, object], env: Mapping[str, str] | None = None
    ) -> EmulatorServer:
        """OpenAI's emulator with these options."""
        return EmulatorServer(self.folder, options, self.env(env), name=name)

    def _process(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None, ready: Ready | None
    ) -> Process:
        return Process(name, command, self.env(env), self.folder / f"{name}.log", ready=ready)

    def _server(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        env: Mapping[str, str] | None,
        **ready: Ready,
    ) -> Server:
        log = self.folder / f"{name}.log"
        return Server(name, command, self.env(env), log, port=port, **ready)


class Stack(StackBase):
    """Redis, emulator, worker, beat, connector and gateway with small timings.

    Ends of batches are noticed by polls, or, with ``webhooks``, by webhooks and rare polls.
    """

    def __init__(self, folder: Path, *, webhooks: bool = False) -> None:
        #: A canary: it must appear only in the workers' environment.
        self.api_key = f"sk-canary-{uuid.uuid4().hex}"
        self.key_prefix = f"accept-{uuid.uuid4().hex[:8]}"
        self.redis_server = RedisServer(folder)
        self.redis_url = self.redis_server.url
        super().__init__(
            folder,
            TIMINGS
            | (_RARE_POLLS if webhooks else {})
            | {"BATCHFLOW_REDIS_URL": self.redis_url, "BATCHFLOW_KEY_PREFIX": self.key_prefix},
        )
        self._clients = ExitStack()
        self.redis: Redis = self._clients.enter_context(
            Redis.from_url(self.redis_url, decode_responses=True)
        )
        self.gateway = self.make_gateway("gateway", {"OPENAI_WEBHOOK_SECRET": SECRET})
        self.gateway_url = f"http://{self.gateway.address}"
        options = dict(_EMULATOR_OPTIONS)
        if webhooks:
            options["webhook-url"] = f"{self.gateway_url}/webhooks/openai"
            options["webhook-secret"] = SECRET
        self.emulator_process = self.make_emulator("emulator", {"log-level": "debug", **options})
        self.beat = self.make_beat("beat")
        self.connector = self.make_connector("connector")
        self.worker = self.make_worker("worker", env=self.worker_env())
        self.processes: list[Process] = [
            self.redis_server,
            self.emulator_process,
            self.beat,
            self.connector,
            self.gateway,
            self.worker,
        ]
        self._extra: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all processes and wait until they are ready."""
        self._start(self.redis_server)
        self.make_store_old()
        self._start(*self.processes[1:])
        self.emulator = self._clients.enter_context(
            closing(Emulator(self.emulator_process.base_url, self.api_key))
        )
        self.flyte = self._clients.enter_context(FlyteClient(self.connector.address))

    def stop(self) -> None:
        """End all processes."""
        self._clients.close()
        stop_all([*self._extra, *reversed(self.processes)])

    def heal(self) -> None:
        """Undo what a test has done to the processes and the emulator."""
        stop_all(self._extra)
        self._extra.clear()
        self._start(*(process for process in self.processes if not process.running))
        self.emulator.heal()
        self.make_store_old()

    def extra(self, *processes: Process) -> None:
        """Start further processes, until the end of the test."""
        self._extra += processes
        self._start(*processes)

    def _start(self, *processes: Process) -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.await_ready()

    def make_store_old(self) -> None:
        """Let the store have existed for long, so that it knows all jobs."""
        self.redis.set(self.key("born"), 0)

    def key(self, name: str) -> str:
        """The full name of a key."""
        return f"{self.key_prefix}:{name}"

    def record(self, job_id: str) -> dict[str, str]:
        """A job's record."""
        fields: Any = self.redis.hgetall(self.key(f"job:{job_id}"))
        return dict(fields)

    def job_ids(self) -> set[str]:
        """The jobs that have a record."""
        prefix = self.key("job:")
        return {str(key).removeprefix(prefix) for key in self.redis.scan_iter(f"{prefix}*")}

    def worker_env(self) -> dict[str, str]:
        """The variables of workers alone: the API key and OpenAI's address."""
        secrets = dict.fromkeys(KEY_VARIABLES, self.api_key)
        return {"OPENAI_BASE_URL": self.emulator_process.base_url, "OPENAI_LOG": "debug", **secrets}


def _serves(port: int) -> bool:
    with FlyteClient(f"127.0.0.1:{port}") as client:
        try:
            return bool(client.task_types(timeout_s=1))
        except grpc.RpcError:
            return False
