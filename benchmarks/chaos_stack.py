"""The processes that the chaos program breaks: Redis, emulator, workers, beat, two connectors."""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from redis import Redis, RedisError

from batchflow.stack.processes import free_port
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient
from tests.kit.processes import BIN, Process, clean_environment
from tests.kit.stack import KEY_VARIABLES

SETTINGS = {
    "BATCHFLOW_POLL_INTERVAL_S": "0.5",
    "BATCHFLOW_SWEEP_INTERVAL_S": "0.3",
    "BATCHFLOW_SETTLE_S": "1",
    "BATCHFLOW_LEASE_S": "2",
    "BATCHFLOW_OPENAI_TIMEOUT_S": "3",
}
#: Seconds.
EMULATOR = {
    "--validating-s": 0.3,
    "--in-progress-s": 0.8,
    "--per-request-s": 0.02,
    "--finalizing-s": 0.2,
    "--cancelling-s": 0.2,
}
WORKERS = 2
#: The workers' pools, in turn: the one that is recommended, and Celery's default.
_POOLS = ("threads", "prefork")
CONNECTORS = 2
_READY_S = 90.0
_API_KEY = "sk-chaos"
_READY_LINE = re.compile(r"^OpenAI emulator ready: OPENAI_BASE_URL=(http://\S+/v1)$", re.MULTILINE)


class NotReady(Exception):
    """Raised when a process of the stack does not start."""


class ChaosStack:
    """The processes, under their names; each may be killed and started at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.redis_data = folder / "redis"
        for path in (self.blobs, self.redis_data, folder / "tmp"):
            path.mkdir(parents=True)
        redis_port = free_port()
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        self.redis = Redis.from_url(self.redis_url, decode_responses=True, socket_timeout=2)
        self.redis_server = self._process("redis", self._redis_command(redis_port))
        simulate: list[str | Path] = [BIN / "batchflow", "simulate", "--port", "0"]
        options = [str(part) for pair in EMULATOR.items() for part in pair]
        self.emulator_process = self._process("emulator", [*simulate, *options])
        self.connector_ports = [free_port() for _ in range(CONNECTORS)]
        self.connectors = [
            self._process(f"connector-{n}", self._connector_command(port))
            for n, port in enumerate(self.connector_ports)
        ]
        beat: list[str | Path] = [
            BIN / "celery",
            "-A",
            "batchflow_workers",
            "beat",
            "--pidfile",
            "",
        ]
        self.beat = self._process("beat", [*beat, "--loglevel", "INFO"])
        self.second_beat = self._process("beat-2", [*beat, "--loglevel", "INFO"])
        self.workers: list[Process] = []
        self.client = FlyteClient(
            "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self.connector_ports)
        )

    def start(self) -> None:
        """Start everything, and wait until all of it is ready."""
        for process in (self.redis_server, self.emulator_process, self.beat, *self.connectors):
            process.start()
        log = self.emulator_process.log
        _wait(lambda: _READY_LINE.search(log()), "the emulator")
        ready = _READY_LINE.search(log())
        if ready is None:
            raise NotReady("the emulator's ready line is gone")
        _wait(self.redis_answers, "Redis")
        self.emulator = Emulator(ready[1], _API_KEY)
        self.workers += [self._worker(n, ready[1]) for n in range(WORKERS)]
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            _wait(lambda w=worker: " ready." in w.log(), worker.name)  # type: ignore[misc]
        for port in self.connector_ports:
            with FlyteClient(f"127.0.0.1:{port}") as client:
                _wait(lambda c=client: _serves(c), f"the connector at {port}")  # type: ignore[misc]

    def stop(self) -> None:
        """End everything."""
        self.client.close()
        if hasattr(self, "emulator"):
            self.emulator.close()
        self.redis.close()
        for process in self.everything():
            # Nobody needs their last words.
            if process.running:
                process.kill()

    def everything(self) -> list[Process]:
        """All processes, those that others need last."""
        return [
            *self.workers,
            *self.connectors,
            self.beat,
            self.second_beat,
            self.emulator_process,
            self.redis_server,
        ]

    def redis_answers(self) -> bool:
        """Whether Redis is there and has read its file."""
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def serves(self, number: int) -> bool:
        """Whether a connector answers."""
        with FlyteClient(f"127.0.0.1:{self.connector_ports[number]}") as client:
            return _serves(client)

    def log_lines(self, needle: str) -> list[str]:
        """Lines of all logs that contain something, with the name of the process."""
        return [
            f"{path.stem}: {line}"
            for path in sorted(self.folder.glob("*.log"))
            for line in path.read_text("utf-8", "replace").splitlines()
            if needle in line
        ]

    def _worker(self, number: int, base_url: str) -> Process:
        command: list[str | Path] = [
            BIN / "celery",
            "-A",
            "batchflow_workers",
            "worker",
            "--loglevel",
            "INFO",
        ]
        pool = _POOLS[number % len(_POOLS)]
        more = ["--pool", pool, "--concurrency", "2", "-n", f"chaos-{number}@%h"]
        env = {
            **self._env(),
            "OPENAI_BASE_URL": base_url,
            **dict.fromkeys(KEY_VARIABLES, _API_KEY),
        }
        path = self.folder / f"worker-{number}.log"
        return Process(f"worker-{number}", [*command, *more], env, path)

    def _redis_command(self, port: int) -> list[str | Path]:
        server = shutil.which("redis-server")
        if server is None:
            raise NotReady("there is no redis-server on PATH")
        return [
            *(server, "--bind", "127.0.0.1", "--port", str(port), "--save", ""),
            *("--dir", self.redis_data, "--appendonly", "yes", "--appendfsync", "everysec"),
        ]

    def _connector_command(self, port: int) -> list[str | Path]:
        serve: list[str | Path] = [
            BIN / "pyflyte",
            "serve",
            "connector",
            "--modules",
            "batchflow_connector",
        ]
        return [*serve, "--port", str(port), "--prometheus_port", str(free_port())]

    def _env(self) -> dict[str, str]:
        return {
            **clean_environment(),
            **SETTINGS,
            "BATCHFLOW_REDIS_URL": self.redis_url,
            "BATCHFLOW_ALLOWED_URIS": f"{self.blobs}/",
            "PYTHONUNBUFFERED": "1",
            "FLYTE_SDK_LOGGING_LEVEL": "20",
            "FLYTE_SDK_RICH_TRACEBACKS": "0",
            "TMPDIR": str(self.folder / "tmp"),
        }

    def _process(self, name: str, command: Sequence[str | Path]) -> Process:
        return Process(name, command, self._env(), self.folder / f"{name}.log")


def _serves(client: FlyteClient) -> bool:
    try:
        return bool(client.task_types(timeout_s=1))
    except grpc.RpcError:
        return False


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise NotReady(f"{what} did not start")
        time.sleep(0.05)
