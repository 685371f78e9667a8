"""The whole of Batchflow as real processes, as an operator starts them, with small timings.

A stack is told of batches by polling alone, or by webhooks and a poll that is rare.
"""

import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from redis import Redis, RedisError

from batchflow.stack.processes import free_port
from tests.kit.deliveries import SECRET
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient
from tests.kit.processes import BIN, Process, clean_environment

#: Seconds; each is far below its default.
TIMINGS = {
    "BATCHFLOW_POLL_INTERVAL_S": "0.3",
    "BATCHFLOW_SWEEP_INTERVAL_S": "0.3",
    "BATCHFLOW_SETTLE_S": "0.5",
    "BATCHFLOW_LEASE_S": "2",
    "BATCHFLOW_OPENAI_TIMEOUT_S": "20",
}
#: Where the workers, and nobody else, find the key: Flyte's names for `FLYTE_OPENAI_API_KEY` and
#: for `api_key` in the group `openai-api-key`. A shell can't export the second one.
KEY_VARIABLES = ("_FSEC_FLYTE_OPENAI_API_KEY", "_FSEC_OPENAI-API-KEY_API_KEY")

#: With webhooks, nothing in a test waits for a poll.
RARELY_POLLED = {"BATCHFLOW_POLL_INTERVAL_S": "600"}

_EMULATOR_OPTIONS = {
    "--validating-s": 0.1,
    "--in-progress-s": 0.3,
    "--per-request-s": 0,
    "--finalizing-s": 0.1,
    "--cancelling-s": 0.1,
}
_READY_LINE = re.compile(r"^OpenAI emulator ready: OPENAI_BASE_URL=(http://\S+/v1)$", re.MULTILINE)


class Stack:
    """Redis, emulator, worker, beat, connector and gateway; each can be stopped and started
    again."""

    def __init__(self, folder: Path, *, webhooks: bool = False) -> None:
        self.folder = folder
        self._timings = TIMINGS | (RARELY_POLLED if webhooks else {})
        #: What plays the blob storage: workers touch no other files.
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        #: Found nowhere but in the workers' environment, if all is well.
        self.api_key = f"sk-canary-{uuid.uuid4().hex}"
        self.key_prefix = f"accept-{uuid.uuid4().hex[:8]}"
        self.processes: list[Process] = []
        self._connector_ports: dict[str, int] = {}
        self._extra: list[Process] = []
        self._clients: list[FlyteClient] = []

        port = free_port()
        self.redis_url = f"redis://127.0.0.1:{port}/0"
        self.redis: Redis = Redis.from_url(self.redis_url, decode_responses=True)
        self.redis_server = self._add("redis", self._redis_command(port), {})
        gateway_port = free_port()
        self.gateway_url = f"http://127.0.0.1:{gateway_port}"
        options = [str(part) for pair in _EMULATOR_OPTIONS.items() for part in pair]
        if webhooks:
            options += ["--webhook-url", f"{self.gateway_url}/webhooks/openai"]
            options += ["--webhook-secret", SECRET]
        simulate: list[str | Path] = [
            BIN / "batchflow",
            "simulate",
            "--port",
            "0",
            "--log-level",
            "debug",
        ]
        self.emulator_process = self._add("emulator", [*simulate, *options], {})
        self.beat = self._add("beat", self._celery("beat", "--pidfile", ""))
        self.connector = self._add_connector("connector", ["batchflow_connector"])
        self.gateway = self._add(
            "gateway",
            [BIN / "batchflow", "gateway", "--port", str(gateway_port)],
            {"OPENAI_WEBHOOK_SECRET": SECRET},
        )

    def start(self) -> None:
        """Start everything, and wait until all of it is ready."""
        for process in self.processes:
            process.start()
        self.redis_server.await_ready(self.redis_answers)
        self.make_store_old()
        self.emulator_process.await_ready(lambda: _READY_LINE.search(self.emulator_process.log()))
        ready = _READY_LINE.search(self.emulator_process.log())
        assert ready is not None
        self.emulator = Emulator(ready[1], self.api_key)
        self.worker = self._add("worker", self.worker_command("main"), self.worker_env())
        self.worker.start()
        for process in self.processes:
            self.await_ready(process)
        self.flyte = self.client()

    def stop(self) -> None:
        """End everything, the last one first."""
        for client in self._clients:
            client.close()
        if hasattr(self, "emulator"):
            self.emulator.close()
        self.redis.close()
        everything = [*reversed(self.processes), *self._extra]
        for process in everything:
            process.terminate()
        for process in everything:
            process.stop()

    def heal(self) -> None:
        """After a test: whatever it broke works again."""
        for process in self._extra:
            process.terminate()
        for process in self._extra:
            process.stop()
        self._extra.clear()
        ended = [process for process in self.processes if not process.running]
        for process in ended:
            process.start()
        for process in ended:
            self.await_ready(process)
        self.emulator.heal()
        self.make_store_old()

    def make_store_old(self) -> None:
        """From now on it has been there for long, and so knows every job."""
        self.redis.set(self.key("born"), 0)

    def extra(self, process: Process) -> Process:
        """Start a further process, until the end of the test."""
        self._extra.append(process)
        process.start()
        return process

    def connector_with(self, name: str, modules: Sequence[str]) -> Process:
        """One more connector, with these modules in this order; it is not started."""
        return self._add_connector(name, modules, keep=False)

    def client(self, connector: Process | None = None) -> FlyteClient:
        """What Flyte's backend is to a connector."""
        port = self._connector_ports[(connector or self.connector).name]
        client = FlyteClient(f"127.0.0.1:{port}")
        self._clients.append(client)
        return client

    def await_ready(self, process: Process) -> None:
        """Wait until a process that was started does its work."""
        if process.name.startswith("worker"):
            process.await_ready(lambda: " ready." in process.log())
        elif process.name.startswith("beat"):
            process.await_ready(lambda: "beat: Starting" in process.log())
        elif process is self.gateway:
            process.await_ready(lambda: "Gateway ready" in process.log())
        elif process.name in self._connector_ports:
            with FlyteClient(f"127.0.0.1:{self._connector_ports[process.name]}") as client:
                process.await_ready(lambda: _serves(client))

    def redis_answers(self) -> bool:
        """Whether Redis is there."""
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def key(self, name: str) -> str:
        """A key of Batchflow as Redis has it."""
        return f"{self.key_prefix}:{name}"

    def record(self, job_id: str) -> dict[str, str]:
        """A job's record."""
        fields: Any = self.redis.hgetall(self.key(f"job:{job_id}"))
        return dict(fields)

    def job_ids(self) -> set[str]:
        """The jobs that Redis has."""
        prefix = self.key("job:")
        return {str(key).removeprefix(prefix) for key in self.redis.scan_iter(f"{prefix}*")}

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What every process gets: where Redis is, and nothing of OpenAI."""
        temp = self.folder / "tmp"
        temp.mkdir(exist_ok=True)
        return {
            **clean_environment(),
            **self._timings,
            "BATCHFLOW_ALLOWED_URIS": f"{self.blobs}/",
            "BATCHFLOW_REDIS_URL": self.redis_url,
            "BATCHFLOW_KEY_PREFIX": self.key_prefix,
            "FLYTE_SDK_LOGGING_LEVEL": "10",
            "FLYTE_SDK_RICH_TRACEBACKS": "0",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temp),
            **(more or {}),
        }

    def worker_env(self) -> dict[str, str]:
        """What only workers get: the key and the way to OpenAI."""
        secrets = dict.fromkeys(KEY_VARIABLES, self.api_key)
        return {"OPENAI_BASE_URL": self.emulator.base_url, "OPENAI_LOG": "debug", **secrets}

    def worker_command(self, name: str, *options: str) -> list[str | Path]:
        """A worker with Celery's default pool, on all queues unless told otherwise."""
        return self._celery("worker", "--concurrency", "4", "-n", f"{name}@%h", *options)

    def second_worker(self) -> Process:
        """One more worker, of which nobody depends; it is not started."""
        return self._process("worker-2", self.worker_command("second"), self.worker_env())

    def worker_with_threads(self) -> Process:
        """A worker whose steps run in threads; it is not started."""
        command = self.worker_command("threads", "--pool", "threads")
        return self._process("worker-threads", command, self.worker_env())

    def second_beat(self) -> Process:
        """One more scheduler; it is not started."""
        return self._process("beat-2", self.beat.command)

    def _celery(self, *command: str) -> list[str | Path]:
        return [BIN / "celery", "-A", "batchflow_workers", *command, "--loglevel", "DEBUG"]

    def _redis_command(self, port: int) -> list[str | Path]:
        server = shutil.which("redis-server")
        assert server is not None, "acceptance tests need a redis-server on PATH"
        options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder)]
        return [server, *options, "--save", "", "--appendonly", "no"]

    def _add_connector(self, name: str, modules: Sequence[str], *, keep: bool = True) -> Process:
        self._connector_ports[name] = free_port()
        ports = ["--port", str(self._connector_ports[name]), "--prometheus_port", str(free_port())]
        named = [part for module in modules for part in ("--modules", module)]
        command: list[str | Path] = [BIN / "pyflyte", "serve", "connector", *ports, *named]
        return self._add(name, command) if keep else self._process(name, command)

    def _add(
        self, name: str, command: Sequence[str | Path], more: Mapping[str, str] | None = None
    ) -> Process:
        process = self._process(name, command, more)
        self.processes.append(process)
        return process

    def _process(
        self, name: str, command: Sequence[str | Path], more: Mapping[str, str] | None = None
    ) -> Process:
        return Process(name, command, self.env(more), self.folder / f"{name}.log")


def _serves(client: FlyteClient) -> bool:
    try:
        return bool(client.task_types(timeout_s=1))
    except grpc.RpcError:
        return False
