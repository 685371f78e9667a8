"""Child processes that live as long as their parent, and not longer."""

import contextlib
import ctypes
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchflow.errors import BatchflowError

logger = logging.getLogger(__name__)

#: How long a process may take to be ready, and to stop when it is asked to.
_READY_S = 60.0
_STOP_S = 15.0
_LOG_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class ProcessFailed(BatchflowError):
    """Raised when a child process ends, or is not ready in time."""


@dataclass(frozen=True)
class Child:
    """A started process and the file that has its output."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    def tail(self) -> str:
        """The end of its output."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None


class Processes:
    """Starts processes, and stops them in the opposite order."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="batchflow-stack-")
        self._children: list[Child] = []

    @property
    def folder(self) -> Path:
        """A folder that is deleted with the processes."""
        return Path(self._folder.name)

    @property
    def children(self) -> Sequence[Child]:
        """What was started."""
        return tuple(self._children)

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Child:
        """Start a process; its output goes to a file."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the parent alone, which then stops these in order.
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no locks
            )
        child = Child(name, popen, log)
        self._children.append(child)
        return child

    def wait_until(self, child: Child, ready: Callable[[], bool]) -> None:
        """Wait until a process is ready; raises ProcessFailed with its last lines."""
        deadline = time.monotonic() + _READY_S
        while not ready():
            if not child.running:
                raise ProcessFailed(f"The {child.name} ended while it started:\n{child.tail()}")
            if time.monotonic() > deadline:
                raise ProcessFailed(f"The {child.name} is not ready in time:\n{child.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop everything, last started first. Idempotent."""
        for child in reversed(self._children):
            if child.running:
                child.popen.terminate()
        deadline = time.monotonic() + _STOP_S
        for child in reversed(self._children):
            try:
                child.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.popen.kill()
                child.popen.wait()
        self._children.clear()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


def _die_with_parent() -> None:
    """Linux ends the child when its parent is killed and can't do so itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
