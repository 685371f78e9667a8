"""The processes that a benchmark needs, started as an operator starts them.

They use a temporary folder, and always end with the benchmark.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml
from celery import Celery

from batchflow.queue import make_app
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.store import JobStore, connect
from benchmarks.support import cores, usage
from tests.kit.processes import Process, RedisServer, Server, stop_all, until
from tests.kit.stack import StackBase

P = TypeVar("P", bound=Process)

ROOT = Path(__file__).resolve().parent.parent.parent
#: What the workers and the old plugin send as their API key.
API_KEY = "sk-benchmark"

#: A process that uses less than this share of a core is idle.
_IDLE_SHARE = 0.05
_SAMPLE_S = 0.2
_IDLE_TIMEOUT_S = 120.0


class Stack(StackBase):
    """Starts processes: the measured one on a reserved core, all others on the other cores."""

    log_level = "WARNING"

    def __init__(self, *, pinned: bool = True) -> None:
        self._pinned = pinned
        self._temporary = tempfile.TemporaryDirectory(prefix="benchmark-")
        self._processes: list[Process] = []
        super().__init__(
            Path(self._temporary.name),
            {
                "PYTHONPATH": str(ROOT),
                "REMAP_SIGTERM": "SIGQUIT",
                "FLYTE_SDK_LOGGING_LEVEL": "30",
                "_FSEC_FLYTE_OPENAI_API_KEY": API_KEY,
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop_all(self._processes[::-1])
        self._temporary.cleanup()

    def redis(self, *options: str, name: str = "redis") -> str:
        """Start a Redis with the options of docker-compose.yml and ``options``; return its URL.

        Processes that start later use it.
        """
        folder = self.folder / name
        folder.mkdir()
        server = self._start(RedisServer(folder, *_compose_options(), *options, name=name))
        self.variables["BATCHFLOW_REDIS_URL"] = server.url
        return server.url

    def connector(self, module: str, *, name: str, env: Mapping[str, str] | None = None) -> str:
        """Start flytekit's gRPC server with the connectors of a module; return its address."""
        return self._start(self.make_connector(name, module, env=env), measured=True).address

    def worker(
        self, *options: str, env: Mapping[str, str] | None = None, measured: bool = False
    ) -> Process:
        """Start a Celery worker with these options."""
        app = make_app(self.settings())
        worker = self.make_worker("worker", *options, env=env, ready=lambda _: _responds(app))
        return self._start(worker, measured=measured)

    def kill(self, process: Process) -> None:
        """Kill a process and its children, so that its name can be used again."""
        process.kill()
        process.stop()
        self._processes.remove(process)

    def beat(self, env: Mapping[str, str] | None = None) -> None:
        """Start Celery's scheduler."""
        self._start(self.make_beat("beat", env, ready=None))

    def gateway(self, env: Mapping[str, str] | None = None) -> str:
        """Start `batchflow gateway`; return its URL."""
        return f"http://{self._start(self.make_gateway('gateway', env)).address}"

    def emulator(self, options: Mapping[str, object], env: Mapping[str, str] | None = None) -> str:
        """Start the emulator of OpenAI with these options; return its base URL."""
        return self._start(self.make_emulator("emulator", options, env)).base_url

    def openai_stub(
        self, *, latency_ms: float = 0, upload_mbit_s: float = 0, name: str = "openai-stub"
    ) -> str:
        """Start the stub of OpenAI, see ``openai_stub.py``; return its base URL."""
        port = free_port()
        module = "benchmarks.support.openai_stub"
        command = [sys.executable, "-m", module, str(port), str(latency_ms), str(upload_mbit_s)]
        log = self.folder / f"{name}.log"
        return f"http://{self._start(Server(name, command, self.env(), log, port=port)).address}/v1"

    def await_idle(self) -> None:
        """Wait until all processes are idle, so that one side's work does not slow the next."""
        until(
            lambda: _busiest_s(self._processes) <= _IDLE_SHARE * _SAMPLE_S,
            "the servers to be idle",
            timeout_s=_IDLE_TIMEOUT_S,
        )

    def settings(self, **values: Any) -> Settings:
        """The settings that the processes read from their environment."""
        given = {
            "redis_url": self.variables["BATCHFLOW_REDIS_URL"],
            "allowed_uris": f"{self.blobs}/",
        }
        return Settings.model_validate(given | values)

    def store(self) -> JobStore:
        """The job store."""
        return connect(self.settings())

    def _start(self, process: P, *, measured: bool = False) -> P:
        self._processes.append(process)
        with cores.on(measured=measured) if self._pinned else contextlib.nullcontext():
            process.start()
        process.await_ready()
        return process


def _busiest_s(processes: Sequence[Process]) -> float:
    """The CPU time of the busiest process during a sample, in seconds."""
    before = [usage.cpu_s(process.pid) for process in processes]
    time.sleep(_SAMPLE_S)
    return max(
        usage.cpu_s(process.pid) - used for process, used in zip(processes, before, strict=True)
    )


def _responds(app: Celery) -> bool:
    """Whether a worker responds to a ping."""
    return bool(app.control.ping(timeout=0.3))


def _compose_options() -> list[str]:
    """The options with which docker-compose.yml starts Redis."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    _binary, *options = compose["services"]["redis"]["command"]
    return [str(option) for option in options]
