"""Keeping the processes of ``batchflow up`` alive, showing what they say, and stopping them."""

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

from batchflow.cli.text import printable
from batchflow.stack.processes import Child, Processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_EVERY_S = 0.2
#: Waits before a process that ended is started again: doubled each time, within limits.
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
#: A process that ran for so long starts with a short wait again.
_STEADY_S = 60.0
#: A log file is cut when it gets larger.
_MAX_LOG_BYTES = 8 * 1024 * 1024
#: Lines about every message and every request; what was done for a job, the steps say.
_NOISE = re.compile(r"Task batchflow\.\S+ (received|succeeded)|HTTP Request: |^\s*$")
_COLOURS = {
    "redis": "red",
    "worker": "green",
    "beat": "yellow",
    "connector": "cyan",
    "gateway": "blue",
}


class _Stop(BaseException):
    """Raised when the user, or the system, ends the command."""


@contextmanager
def stopping_on_signals(processes: Processes, console: Console) -> Iterator[None]:
    """Stop the processes in order when this is left, which a signal does; a second one hurries."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for name in _SIGNALS:
            signal.signal(name, hurry)
        raise _Stop

    def hurry(number: int, frame: FrameType | None) -> None:
        processes.kill()

    before = {name: signal.signal(name, stop) for name in _SIGNALS}
    try:
        yield
    except _Stop:
        console.print("\nStopping; running steps may end first. Ctrl-C again ends them at once.")
    finally:
        processes.stop()
        for name, handler in before.items():
            signal.signal(name, handler)
    console.print("Stopped.")


class Supervisor:
    """Looks after processes that are there already."""

    def __init__(self, processes: Processes, console: Console) -> None:
        self._processes = processes
        self._console = console
        self._tails = {child.name: _Tail(child.log) for child in processes.children}
        self._watches = {child.name: _Watch() for child in processes.children}

    def look(self) -> None:
        """Show what they say and start again what has ended. Takes a moment."""
        for child in self._processes.children:
            self._show_log(child)
            if not child.running:
                self._revive(child)
        time.sleep(_LOOK_EVERY_S)

    def _show_log(self, child: Child) -> None:
        for line in self._tails[child.name].lines():
            if not _NOISE.search(line):
                self._say(child, printable(line))

    def _revive(self, child: Child) -> None:
        watch, now = self._watches[child.name], time.monotonic()
        if watch.due is None:
            if now - watch.started > _STEADY_S:
                watch.wait_s = _FIRST_WAIT_S
            watch.due = now + watch.wait_s
            code = child.popen.returncode
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self._say(child, f"ended {how}; starting it again in {watch.wait_s:.0f} s", "bold")
        elif now >= watch.due:
            self._processes.restart(child)
            watch.due, watch.started = None, now
            watch.wait_s = min(2 * watch.wait_s, _LONGEST_WAIT_S)
            self._say(child, "started again", "bold")

    def _say(self, child: Child, line: str, style: str = "") -> None:
        prefix = Text(f"{child.name:<9} | ", style=_COLOURS.get(child.name, "magenta"))
        self._console.print(prefix.append(line, style=style or "default"), soft_wrap=True)


class _Watch:
    """When a process is started again."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.wait_s = _FIRST_WAIT_S
        self.due: float | None = None


class _Tail:
    """What is added to a file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size
        self._rest = b""

    def lines(self) -> list[str]:
        """The lines that were finished since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            added = file.read()
        self._position += len(added)
        if self._position > _MAX_LOG_BYTES:
            # Its writer appends, and so goes on at the beginning.
            self._path.open("wb").close()
            self._position = 0
        *whole, self._rest = (self._rest + added).split(b"\n")
        return [line.decode("utf-8", errors="replace").rstrip("\r") for line in whole]
