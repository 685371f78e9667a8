"""Supervision of the processes of ``batchflow up``: their logs, restarts and shutdown."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from batchflow.overview.untrusted_text import printable
from batchflow.stack.processes import Child, Processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERVAL_S = 0.2
#: Delay before a restart; it doubles with each one, up to the maximum.
_MIN_DELAY_S = 1.0
_MAX_DELAY_S = 60.0
#: A process that ran for this long gets the minimum delay again.
_STABLE_S = 60.0
#: Size at which a log file is truncated.
_MAX_LOG_BYTES = 8 * 1024 * 1024
#: Lines about single messages and HTTP requests; the steps log what they did for a job.
_NOISE = re.compile(r"Task batchflow\.\S+ (received|succeeded)|HTTP Request: |^\s*$")
_STYLES = {
    "redis": "red",
    "worker": "green",
    "beat": "yellow",
    "connector": "cyan",
    "gateway": "blue",
}


class _Stop(BaseException):
    """Raised by the first signal."""


@contextmanager
def stopping_on_signals(processes: Processes, console: Console) -> Iterator[None]:
    """Stop the processes when the context is left, which a signal does.

    A second signal kills them.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for name in _SIGNALS:
            signal.signal(name, kill)
        raise _Stop

    def kill(number: int, frame: FrameType | None) -> None:
        processes.kill()

    before = {name: signal.signal(name, stop) for name in _SIGNALS}
    try:
        yield
    except _Stop:
        console.print(
            "\nStopping when the running steps have finished. Press Ctrl-C again to stop now."
        )
    finally:
        processes.stop()
        for name, handler in before.items():
            signal.signal(name, handler)
    console.print("Stopped.")


class Supervisor:
    """Shows the logs of started processes, and restarts those that end."""

    def __init__(self, processes: Processes, console: Console) -> None:
        self._processes = processes
        self._console = console
        self._logs = {child.name: _LogReader(child.log) for child in processes.children}
        self._restarts = {child.name: _Restart() for child in processes.children}

    def run_once(self) -> None:
        """Show new log lines, restart ended processes, and sleep for a moment."""
        for child in self._processes.children:
            for line in self._logs[child.name].new_lines():
                if not _NOISE.search(line):
                    self._print(child, printable(line))
            if not child.running:
                self._restart(child)
        time.sleep(_INTERVAL_S)

    def _restart(self, child: Child) -> None:
        restart, now = self._restarts[child.name], time.monotonic()
        if restart.due is None:
            if now - restart.started > _STABLE_S:
                restart.delay_s = _MIN_DELAY_S
            restart.due = now + restart.delay_s
            code = child.popen.returncode
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self._print(child, f"ended {how}; restarting in {restart.delay_s:.0f} s", "bold")
        elif now >= restart.due:
            self._processes.restart(child)
            restart.due, restart.started = None, now
            restart.delay_s = min(2 * restart.delay_s, _MAX_DELAY_S)
            self._print(child, "restarted", "bold")

    def _print(self, child: Child, line: str, style: str = "") -> None:
        prefix = Text(f"{child.name:<9} | ", style=_STYLES.get(child.name, "magenta"))
        self._console.print(prefix.append(line, style=style or "default"), soft_wrap=True)


class _Restart:
    """When a process was started, and when it is due to be started again."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.delay_s = _MIN_DELAY_S
        self.due: float | None = None


class _LogReader:
    """Reads what is appended to a log file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size
        self._rest = b""

    def new_lines(self) -> list[str]:
        """Return the lines completed since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            added = file.read()
        self._position += len(added)
        if self._position > _MAX_LOG_BYTES:
            # The process has opened the file for appending, so it continues at the start.
            self._path.open("wb").close()
            self._position = 0
        *complete, self._rest = (self._rest + added).split(b"\n")
        return [line.decode("utf-8", errors="replace").rstrip("\r") for line in complete]
