"""The processes that a benchmark needs, started as an operator starts them.

They live in one folder and end with the benchmark, however it ends.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from celery import Celery

from batchflow.queue import make_app
from batchflow.settings import Settings
from batchflow.stack import process_commands
from batchflow.stack.local_stack import redis_responds
from batchflow.stack.processes import Child, Processes, free_port, is_port_taken
from batchflow.store import JobStore, connect
from benchmarks.support import cores, usage

ROOT = Path(__file__).resolve().parent.parent.parent
#: What the workers and the old plugin send as their API key.
API_KEY = "sk-benchmark"

_STOP_S = 3.0
#: A process that uses less than this share of a core has nothing to do.
_IDLE_SHARE = 0.05
_LOOK_S = 0.2
_IDLE_S = 120.0
_FOREIGN = ("BATCHFLOW_", "OPENAI_", "_FSEC_", "FLYTE_")


class Stack:
    """Starts processes: what is measured on a core of its own, the rest on the others."""

    def __init__(self, *, pinned: bool = True) -> None:
        self._pinned = pinned
        self._processes = Processes(stop_s=_STOP_S)
        self.folder = self._processes.folder
        #: What plays the blob storage: workers touch no other files.
        self.blobs = self.folder / "blobs"
        self.blobs.mkdir()
        temporary = self.folder / "tmp"
        temporary.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        #: What every process gets; nothing of whoever runs this decides a figure.
        self.env = kept | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "REMAP_SIGTERM": "SIGQUIT",
            "TMPDIR": str(temporary),
            "BATCHFLOW_ALLOWED_URIS": f"{self.blobs}/",
            "_FSEC_FLYTE_OPENAI_API_KEY": API_KEY,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._processes.stop()

    def redis(self, *options: str, name: str = "redis") -> str:
        """A Redis with the options of docker-compose.yml, and further ones; returns its URL.

        Everything that is started after it finds the jobs there.
        """
        port = free_port()
        folder = self.folder / name
        folder.mkdir()
        local = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        url = f"redis://127.0.0.1:{port}/0"
        child = self._start(name, [*_compose_redis(), *local, *options], stop_last=True)
        self._processes.wait_until(child, lambda: redis_responds(url))
        self.env["BATCHFLOW_REDIS_URL"] = url
        return url

    def connector(self, module: str, *, name: str, env: Mapping[str, str] | None = None) -> str:
        """flytekit's gRPC server with the connectors of a module; returns its address."""
        port = free_port()
        command = list(process_commands.connector(port, free_port()))
        command[command.index("--modules") + 1] = module
        child = self._start(name, command, env=env, measured=True)
        self._processes.wait_until(child, lambda: is_port_taken(port))
        return f"127.0.0.1:{port}"

    def worker(
        self,
        *options: str,
        name: str = "worker",
        env: Mapping[str, str] | None = None,
        measured: bool = False,
    ) -> Child:
        """A Celery worker with these options."""
        command = [sys.executable, "-m", "celery", "-A", "batchflow_workers", "worker"]
        child = self._start(
            name, [*command, "-n", f"{name}@%h", *options], env=env, measured=measured
        )
        app = make_app(self.settings())
        self._processes.wait_until(child, lambda: _is_up(app, name))
        return child

    def kill(self, child: Child) -> None:
        """End a process and its children at once; another one of its name may follow."""
        for process in usage.family(child.popen.pid):
            process.kill()
        child.popen.wait()

    def beat(self, env: Mapping[str, str] | None = None) -> Child:
        """Celery's scheduler."""
        return self._start("beat", process_commands.beat(log_level="WARNING"), env=env)

    def gateway(self, env: Mapping[str, str] | None = None) -> str:
        """`batchflow gateway`; returns its URL."""
        port = free_port()
        child = self._start("gateway", process_commands.gateway(port), env=env)
        self._processes.wait_until(child, lambda: is_port_taken(port))
        return f"http://127.0.0.1:{port}"

    def emulator(self, env: Mapping[str, str] | None = None, **settings: float | str) -> str:
        """OpenAI's emulator with these settings; returns its base URL."""
        port = free_port()
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        command = [*process_commands.simulator(port), *options]
        child = self._start("emulator", command, env=env, stop_last=True)
        self._processes.wait_until(child, lambda: is_port_taken(port))
        return f"http://127.0.0.1:{port}/v1"

    def stand_in(
        self, *, latency_ms: float = 0, upload_mbit_s: float = 0, name: str = "stand-in"
    ) -> str:
        """The stand-in for OpenAI, see ``stand_in.py``; returns its base URL."""
        port = free_port()
        module = "benchmarks.support.stand_in"
        command = [sys.executable, "-m", module, str(port), str(latency_ms), str(upload_mbit_s)]
        url = f"http://127.0.0.1:{port}"
        child = self._start(name, command, stop_last=True)
        self._processes.wait_until(child, lambda: is_port_taken(port))
        return f"{url}/v1"

    def await_idle(self) -> None:
        """Wait until what was started has nothing left to do: what one side has not finished must
        not slow down the next one."""
        deadline = time.monotonic() + _IDLE_S
        while _busy_s(self._processes.children) > _IDLE_SHARE * _LOOK_S:
            if time.monotonic() > deadline:
                raise RuntimeError(f"The servers were still busy after {_IDLE_S:g} s.")

    def settings(self, **values: Any) -> Settings:
        """The settings that the processes read from their environment."""
        given = {
            "redis_url": self.env["BATCHFLOW_REDIS_URL"],
            "allowed_uris": f"{self.blobs}/",
        }
        return Settings.model_validate(given | values)

    def store(self, **values: Any) -> JobStore:
        """The job store."""
        return connect(self.settings(**values))

    def _start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        measured: bool = False,
        stop_last: bool = False,
    ) -> Child:
        with cores.on(measured=measured) if self._pinned else contextlib.nullcontext():
            return self._processes.start(
                name, command, self.env | dict(env or {}), stop_last=stop_last
            )


def _busy_s(children: Sequence[Child]) -> float:
    """How many seconds of processor time the busiest one takes while one looks."""
    before = [usage.cpu_s(child.popen.pid) for child in children]
    time.sleep(_LOOK_S)
    return max(
        usage.cpu_s(child.popen.pid) - used for child, used in zip(children, before, strict=True)
    )


def _is_up(app: Celery, name: str) -> bool:
    """Whether the worker of this name answers."""
    replies = app.control.ping(timeout=0.3) or []
    return any(worker.startswith(f"{name}@") for reply in replies for worker in reply)


def _compose_redis() -> list[str]:
    """How docker-compose.yml starts Redis."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    command: list[str] = compose["services"]["redis"]["command"]
    return command
