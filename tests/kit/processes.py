"""Real processes for tests: started with a log file, awaited with a deadline, stopped by pid."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

#: Commands that are installed beside the interpreter.
BIN = Path(sys.executable).parent

_STOP_S = 10.0
_ASK_EVERY_S = 0.05
#: Lines that hide what one wants to see after a failure, and how much of the others is shown.
_NOISE = (
    "batchflow.sweep",
    "TaskPool: Apply",
    "maintenance notifications",
    "beat: Waking",
    "httpcore",
)
_LINE = 300


def until(
    condition: Callable[[], T], what: str, *, timeout_s: float = 30.0, every_s: float = _ASK_EVERY_S
) -> T:
    """Ask until the answer is truthy, and return it; the test fails when it never is."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(every_s)
    pytest.fail(f"Waited {timeout_s:g} s in vain for: {what}")


def clean_environment() -> dict[str, str]:
    """This process' environment, without the settings, the secrets and the terminal of whoever
    runs the tests."""
    foreign = ("BATCHFLOW_", "OPENAI_", "_FSEC_", "FLYTE_", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


class Process:
    """A command with its environment and its log, which can be started again."""

    def __init__(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.env = dict(env)
        self.log_path = log
        self._popen: subprocess.Popen[bytes] | None = None
        self._started_at = 0

    def start(self) -> None:
        """Start it, in a process group of its own; the log is added to."""
        self._started_at = self.log_path.stat().st_size if self.log_path.exists() else 0
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

    @property
    def pid(self) -> int:
        """Of the process that was started, not of its children."""
        assert self._popen is not None
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def log(self) -> str:
        """What it has written since it was last started."""
        with self.log_path.open("rb") as log:
            log.seek(self._started_at)
            return log.read().decode("utf-8", "replace")

    def tail(self, lines: int = 40) -> str:
        """The end of its log, without the ticking of the sweep, its lines cut."""
        kept = [
            line[:_LINE] for line in self.log().splitlines() if not any(n in line for n in _NOISE)
        ]
        return "\n".join(kept[-lines:])

    def await_ready(self, ready: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Wait until it is ready; the test fails, with its log, if it ends before that."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running or time.monotonic() > deadline:
                pytest.fail(f"{self.name} did not get ready:\n{self.tail()}")
            time.sleep(_ASK_EVERY_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait until it has ended by itself; answers its exit code."""
        assert self._popen is not None
        return self._popen.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL for it and its children, as when a machine dies."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        assert self._popen is not None
        self._popen.wait(_STOP_S)

    def terminate(self) -> None:
        """Ask it to end; a stopped process goes on to hear it."""
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it: politely, then not. Idempotent."""
        if self._popen is None:
            return
        self.terminate()
        if self.running:
            try:
                self._popen.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        # What is left of its group, if anything.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
