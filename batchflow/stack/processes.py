"""Child processes that live as long as their parent, and not longer."""

import contextlib
import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchflow.errors import BatchflowError

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
    command: Sequence[str]
    #: It may hold secrets.
    env: Mapping[str, str] = field(repr=False)
    popen: "subprocess.Popen[bytes]"
    log: Path
    #: Whether others need it to stop in order, as they need Redis.
    foundation: bool = False

    def tail(self) -> str:
        """The end of its output."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None


class Processes:
    """Starts processes, and stops them: those that others need last.

    ``stop_s`` is how long a process may take to stop before it is killed.
    """

    def __init__(self, *, stop_s: float = _STOP_S) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="batchflow-stack-")
        self._children: list[Child] = []
        self._stop_s = stop_s

    @property
    def folder(self) -> Path:
        """A folder that is deleted with the processes."""
        return Path(self._folder.name)

    @property
    def children(self) -> Sequence[Child]:
        """What was started."""
        return tuple(self._children)

    def start(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        foundation: bool = False,
    ) -> Child:
        """Start a process, in place of one of that name that has ended.

        Its output is added to a file, which may be cut to nothing while it runs.
        """
        log, env = self.folder / f"{name}.log", dict(env)
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the parent alone, which then stops these in order.
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no locks
            )
        child = Child(name, command, env, popen, log, foundation)
        self._children = [*(other for other in self._children if other.name != name), child]
        return child

    def restart(self, child: Child) -> Child:
        """Start a process that has ended once more."""
        return self.start(child.name, child.command, child.env, foundation=child.foundation)

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
        """Stop everything. Idempotent."""
        for foundation in (False, True):
            _stop(
                [child for child in self._children if child.foundation is foundation], self._stop_s
            )
        self._children.clear()
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    def kill(self) -> None:
        """End everything at once."""
        for child in self._children:
            child.popen.kill()


def _stop(children: Sequence[Child], stop_s: float) -> None:
    for child in children:
        if child.running:
            child.popen.terminate()
    deadline = time.monotonic() + stop_s
    for child in children:
        try:
            child.popen.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.popen.kill()
            child.popen.wait()


def _die_with_parent() -> None:
    """Linux ends the child when its parent is killed and can't do so itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
