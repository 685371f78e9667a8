"""Progress of ``batchflow run`` on stderr: a bar in a terminal, elsewhere a line per change."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from batchflow.jobs import Job
from batchflow.overview.untrusted_text import one_line
from batchflow.states import JobKind, JobState, Stage

_REFRESH_S = 0.25
_MESSAGE_CHARS = 200


@dataclass(frozen=True)
class RunProgress:
    """How far a run has got."""

    phase: str
    completed: int = 0
    failed: int = 0
    total: int = 0
    message: str = ""
    batch_id: str | None = None

    @classmethod
    def of(cls, job: Job) -> Self:
        """The progress of a run, given its latest job."""
        return cls(
            phase=_phase(job),
            completed=job.completed,
            failed=job.failed,
            total=job.total if job.kind is JobKind.BATCH else 0,
            message=job.message if not job.terminal else "",
            batch_id=job.batch_id,
        )

    @property
    def counts(self) -> str:
        """``12 of 240, 3 failed``"""
        if not self.total:
            return ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.completed + self.failed:,} of {self.total:,}{failed}"


class Bar(Progress):
    """A live bar that disappears at the end."""

    def __init__(self, console: Console) -> None:
        self._message = ""  # Progress renders while it is initialized
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self.add_task("", total=None, counts="")

    def show(self, progress: RunProgress) -> None:
        self._message = one_line(progress.message, min(_MESSAGE_CHARS, self.console.width - 2))
        self.update(
            self._task,
            description=f"{progress.phase:<12}",
            total=progress.total or None,
            completed=progress.completed + progress.failed,
            counts=progress.counts,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._message:
            yield Text(f"  {self._message}", style="dim")


class Lines:
    """A plain line whenever the phase or the message changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._last = ("", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the lines where they are."""

    def show(self, progress: RunProgress) -> None:
        message = one_line(progress.message, _MESSAGE_CHARS)
        if (progress.phase, message) == self._last:
            return
        self._last = (progress.phase, message)
        parts = [progress.phase, progress.batch_id or "", progress.counts, message]
        line = ", ".join(part for part in parts if part)
        elapsed_s = time.monotonic() - self._started
        self._console.print(Text(f"[{elapsed_s:6.1f} s] {line}"), soft_wrap=True)


Display = Bar | Lines


def make_display(console: Console) -> Display:
    """A bar for a terminal, and lines for anything else."""
    return Bar(console) if console.is_terminal else Lines(console)


@contextmanager
def showing_progress(read: Callable[[], RunProgress | None], display: Display) -> Iterator[None]:
    """Read the progress and show it, in a thread, until the context is left."""
    done = threading.Event()

    def show() -> None:
        while not done.wait(_REFRESH_S):
            if progress := read():
                display.show(progress)

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _phase(job: Job) -> str:
    if job.cancel_requested or job.state is JobState.CANCELLED:
        return "cancelling"
    match job.kind:
        case JobKind.UPLOAD:
            return "uploading"
        case JobKind.DOWNLOAD:
            return "downloading"
    if not job.batch_id:
        return "submitting"
    if job.stage < Stage.IN_PROGRESS:
        return "validating"
    return "running" if job.stage is Stage.IN_PROGRESS else "finishing"
