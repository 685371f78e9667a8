"""Where a run stands: a bar in a terminal, a line per change elsewhere. All of it on stderr."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from batchflow.cli.text import duration, one_line
from batchflow.jobs import Job
from batchflow.states import JobKind, JobState, Stage

_LOOK_EVERY_S = 0.25
_MESSAGE_CHARS = 200


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    phase: str
    completed: int = 0
    failed: int = 0
    total: int = 0
    message: str = ""
    batch_id: str | None = None

    @property
    def counts(self) -> str:
        """``12 of 240``, and how many of them failed."""
        if not self.total:
            return ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.completed + self.failed:,} of {self.total:,}{failed}"


def standing(job: Job) -> Standing:
    """What the run's latest job says."""
    return Standing(
        phase=_phase(job),
        completed=job.completed,
        failed=job.failed,
        total=job.total if job.kind is JobKind.BATCH else 0,
        message=job.message if not job.terminal else "",
        batch_id=job.batch_id,
    )


class Display(Protocol):
    """Shows where a run stands, between entering and leaving it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    def show(self, now: Standing) -> None:
        """Show it."""


def make_display(console: Console) -> Display:
    """A bar if there is a terminal to draw it on, else lines."""
    return Bar(console) if console.is_terminal else Lines(console)


class Bar(Progress):
    """A live bar that disappears when it is left."""

    def __init__(self, console: Console) -> None:
        self._message = ""  # drawn as soon as there is a bar
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

    def show(self, now: Standing) -> None:
        self._message = one_line(now.message, min(_MESSAGE_CHARS, self.console.width - 2))
        self.update(
            self._task,
            description=f"{now.phase:<12}",
            total=now.total or None,
            completed=now.completed + now.failed,
            counts=now.counts,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._message:
            yield Text(f"  {self._message}", style="dim")


class Lines:
    """A plain line whenever the phase or the message changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._last = ("", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        return

    def show(self, now: Standing) -> None:
        message = one_line(now.message, _MESSAGE_CHARS)
        if (now.phase, message) == self._last:
            return
        self._last = (now.phase, message)
        parts = [now.phase, now.batch_id or "", now.counts, message]
        line = ", ".join(part for part in parts if part)
        elapsed = duration(time.monotonic() - self._began)
        self._console.print(Text(f"[{elapsed:>8}] {line}"), soft_wrap=True)


class Follower:
    """Looks where the run stands, in a thread of its own, until it is left."""

    def __init__(self, look: Callable[[], Standing | None], display: Display) -> None:
        self._look = look
        self._display = display
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(_LOOK_EVERY_S):
            now = self._look()
            if now:
                self._display.show(now)


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
