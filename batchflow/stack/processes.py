"""Child processes that never outlive their parent, and the loopback ports they listen on."""

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchflow.errors import BatchflowError

#: Limits for a process to become ready, and to stop after SIGTERM.
_READY_S = 60.0
_STOP_S = 15.0
_LOG_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class ProcessFailed(BatchflowError):
    """Raised when a child process ends while it starts, or is not ready in time."""


def free_port() -> int:
    """A loopback port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_port_taken(port: int) -> bool:
    """Whether a process listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Child:
    """A started process and its log file."""

    name: str
    command: Sequence[str]
    #: May contain secrets.
    env: Mapping[str, str] = field(repr=False)
    popen: "subprocess.Popen[bytes]"
    log: Path
    #: Whether other processes need it to shut down in order, as they need Redis.
    stop_last: bool = False

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    @property
    def running(self) -> bool:
        """Whether the process is still running."""
        return self.popen.poll() is None


class Processes:
    """A set of child processes; ``stop_s`` is their time to stop before they are killed."""

    def __init__(self, *, stop_s: float = _STOP_S) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="batchflow-stack-")
        #: The started processes.
        self.children: list[Child] = []
        self._stop_s = stop_s

    @property
    def folder(self) -> Path:
        """A temporary folder, deleted when the processes are stopped."""
        return Path(self._folder.name)

    def start(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        stop_last: bool = False,
    ) -> Child:
        """Start a process, replacing an ended one of the same name.

        Its output is appended to a log file, which may be truncated while it runs.
        """
        log, env = self.folder / f"{name}.log", dict(env)
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C then reaches only the parent, which stops its children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no locks
            )
        child = Child(name, command, env, popen, log, stop_last)
        self.children = [*(other for other in self.children if other.name != name), child]
        return child

    def restart(self, child: Child) -> Child:
        """Start an ended process again."""
        return self.start(child.name, child.command, child.env, stop_last=child.stop_last)

    def wait_until(self, child: Child, ready: Callable[[], bool]) -> None:
        """Wait until a process is ready; raises ProcessFailed with the end of its log."""
        deadline = time.monotonic() + _READY_S
        while not ready():
            if not child.running:
                raise ProcessFailed(f"The {child.name} ended while starting:\n{child.tail()}")
            if time.monotonic() > deadline:
                raise ProcessFailed(
                    f"The {child.name} was not ready within {_READY_S:g} s:\n{child.tail()}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop all processes, those marked ``stop_last`` after the others. Idempotent."""
        for stop_last in (False, True):
            _stop([child for child in self.children if child.stop_last is stop_last], self._stop_s)
        self.children.clear()
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    def kill(self) -> None:
        """Send SIGKILL to all processes."""
        for child in self.children:
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
    """Have Linux send SIGTERM to the child when its parent dies, even from SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
