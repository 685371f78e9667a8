"""Real processes for tests and benchmarks: started with a log file, awaited, and stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from batchflow.stack import process_commands
from batchflow.stack.processes import free_port, is_port_taken

T = TypeVar("T")

#: The folder of the commands that are installed beside the interpreter.
BIN = Path(sys.executable).parent

_WAIT_S = 60.0
_STOP_S = 10.0
_POLL_S = 0.05
#: Log lines that would hide the cause of a failure, and the length at which the others are cut.
_NOISE = (
    "batchflow.sweep",
    "TaskPool: Apply",
    "maintenance notifications",
    "beat: Waking",
    "httpcore",
)
_LINE_CHARS = 300
_LOG_LINES = 15

_started: "weakref.WeakSet[Process]" = weakref.WeakSet()


class NotReady(AssertionError):
    """Raised when a condition does not become true in time; ends with the processes' logs."""

    def __init__(self, message: str) -> None:
        super().__init__("\n".join([message, *process_logs(_LOG_LINES).values()]))


def until(
    condition: Callable[[], T | None],
    what: str,
    *,
    timeout_s: float = _WAIT_S,
    every_s: float = _POLL_S,
) -> T:
    """Return the first truthy result of a condition; raises NotReady after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise NotReady(f"Waited {timeout_s:g} s in vain for: {what}")
        time.sleep(every_s)
    return result


def process_logs(lines: int) -> dict[str, str]:
    """The last log lines of each process that was started and not stopped, by name."""
    return {
        process.name: f"--- log of {process.name}\n{process.tail(lines)}"
        for process in sorted(_started, key=lambda process: process.name)
        if process.log_path.exists()
    }


def clean_environment() -> dict[str, str]:
    """This process' environment without settings, secrets and the size of the terminal."""
    foreign = ("BATCHFLOW_", "OPENAI_", "_FSEC_", "FLYTE_", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


class Process:
    """A command with its environment and its log; it can be started more than once.

    ``ready`` is what `await_ready` waits for.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        log: Path,
        *,
        ready: "Ready | None" = None,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.env = dict(env)
        self.log_path = log
        self._ready = ready
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_offset = 0

    def __enter__(self) -> Self:
        try:
            self.start()
            self.await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it in a process group of its own; its output is appended to the log."""
        self._log_offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.log_path.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _started.add(self)

    @property
    def pid(self) -> int:
        """The id of the process itself, not of its children."""
        assert self._popen is not None
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it runs and does its work."""
        return self.running and (self._ready is None or bool(self._ready(self)))

    def log(self) -> str:
        """The output since it was last started."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode("utf-8", "replace")

    def logged(self, text: str) -> bool:
        """Whether the output since the last start contains a text."""
        return text in self.log()

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log, without the periodic ones, long lines cut."""
        kept = [
            line[:_LINE_CHARS]
            for line in self.log().splitlines()
            if not any(noise in line for noise in _NOISE)
        ]
        return "\n".join(kept[-lines:])

    def await_ready(self) -> None:
        """Wait until it is ready; raises NotReady if it ends before that."""
        until(lambda: self.is_ready or not self.running, f"{self.name} to be ready")
        if not self.running:
            raise NotReady(f"{self.name} ended while it started.")

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, not to its children."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = _WAIT_S) -> int:
        """Wait until it has ended by itself and return its exit code."""
        assert self._popen is not None
        return self._popen.wait(timeout_s)

    def kill(self) -> None:
        """Kill it and its children, as when a machine fails."""
        self.signal_group(signal.SIGKILL)
        self.wait(_STOP_S)

    def terminate(self) -> None:
        """Ask it to end; a process that is paused continues, so that it can."""
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it and its children, by force if it does not end in time. Idempotent."""
        _started.discard(self)
        if self._popen is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(_STOP_S)
        self.kill()


#: Whether a process does its work.
Ready = Callable[[Process], object]


class Server(Process):
    """A process that listens on a loopback port; by default it is ready when it does."""

    def __init__(self, *args: Any, port: int, **options: Any) -> None:
        super().__init__(*args, **{"ready": lambda _: is_port_taken(port)} | options)
        self.port = port

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"


def stop_all(processes: Sequence[Process]) -> None:
    """Stop processes, all at the same time."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.stop()


class RedisServer(Server):
    """A redis-server that keeps its data in memory, unless an option says otherwise."""

    def __init__(self, folder: Path, *options: str | Path, name: str = "redis") -> None:
        port = free_port()
        binary, command = process_commands.redis(port, str(folder))
        assert binary == "redis-server", "Install redis-server and put it on PATH."
        super().__init__(
            name,
            [*command, *options],
            clean_environment(),
            folder / f"{name}.log",
            port=port,
            ready=lambda server: server.logged("eady to accept connections"),
        )

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://{self.address}/0"
