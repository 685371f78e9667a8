"""The screen of ``batchflow watch``: fleet statistics, then the jobs that fit the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchflow.cli import job_views
from batchflow.cli.output import STATE_STYLES
from batchflow.jobs import Job
from batchflow.overview.formatting import ago, between, count
from batchflow.overview.summary import Summary, Wait
from batchflow.overview.untrusted_text import one_line, printable
from batchflow.queue import Queue
from batchflow.states import JobKind

_BAR_CHARS = 12
_MESSAGE_CHARS = 300
#: Column -> the least width of a terminal that shows it, in characters.
_COLUMNS = {
    "job": 0,
    "kind": 90,
    "state": 0,
    "progress": 110,
    "done": 0,
    "since": 0,
    "left": 90,
}
_MAX_WAITS = 3
#: Two lines of statistics, an empty line and the table's header.
_OTHER_LINES = 4


@dataclass(frozen=True)
class FleetView:
    """The fleet at one moment, and the selected jobs, live ones first."""

    summary: Summary
    jobs: Sequence[Job]


def job_rows(height: int) -> int:
    """Return how many jobs fit on a screen of this height when no wait is shown."""
    return max(1, height - _OTHER_LINES)


def screen(view: FleetView | None, problem: str, *, width: int, height: int) -> RenderableType:
    """Draw the screen; ``problem`` says why ``view`` is missing or outdated."""
    parts: list[RenderableType] = []
    if problem:
        parts.append(_truncated(Text(f"{printable(problem)} Retrying.", style="bold red")))
    if view:
        parts += [_job_statistics(view.summary), _process_statistics(view.summary)]
        parts += [_wait(wait) for wait in view.summary.waits[:_MAX_WAITS]]
        parts.append(Text())
        left = height - len(parts) - 1
        parts.append(_table(view.jobs[: max(1, left)], view.summary.at, width))
    return Group(*parts)


def _job_statistics(summary: Summary) -> Text:
    tokens = summary.input_tokens + summary.output_tokens
    failed = summary.failed_last_hour
    oldest = ""
    if summary.oldest_batch_since:
        oldest = f"oldest batch {between(summary.oldest_batch_since, summary.at)}"
    return _line(
        Text(f"{summary.running:,} running", style="bold"),
        Text(f"{summary.queued:,} queued"),
        Text.assemble(
            f"last hour: {summary.succeeded_last_hour:,} succeeded, ",
            (f"{failed:,} failed", "red" if failed else ""),
        ),
        Text(f"{tokens:,} tokens"),
        Text(oldest),
    )


def _process_statistics(summary: Summary) -> Text:
    workers = [
        Text(f"{queue} {number}", style="" if number else "bold red")
        for queue, number in ((queue, summary.workers.get(queue, 0)) for queue in Queue)
    ]
    return _line(
        Text.assemble("workers: ", Text(", ").join(workers)),
        Text(f"last sweep {ago(summary.swept_at, summary.at)}"),
        Text(f"last poll {ago(summary.polled_at, summary.at)}"),
        Text(f"last webhook {ago(summary.webhook_at, summary.at)}"),
    )


def _wait(wait: Wait) -> Text:
    jobs = f", {count(wait.jobs, 'job')}" if wait.jobs is not None else ""
    line = one_line(f"{wait.what}{jobs}: {wait.message}", _MESSAGE_CHARS)
    return _truncated(Text(line, style="yellow"))


def _table(jobs: Sequence[Job], now: datetime, width: int) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim", highlight=False)
    columns = [column for column, min_width in _COLUMNS.items() if width >= min_width]
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        cells: dict[str, RenderableType] = {
            "job": job.id,
            "kind": job.kind,
            "state": Text(job.state, style=STATE_STYLES[job.state]),
            "progress": _bar(job),
            "done": job_views.progress(job),
            "since": job_views.listed_age(job, now),
            "left": _time_left(job, now),
        }
        message = Text(one_line(job.message or job.openai_status, _MESSAGE_CHARS))
        table.add_row(*(cells[column] for column in columns), message)
    return table


def _bar(job: Job) -> RenderableType:
    done, total = (
        (job.completed + job.failed, job.total)
        if job.kind is JobKind.BATCH
        else (job.bytes_done, job.bytes_total)
    )
    return ProgressBar(total=total, completed=done, width=_BAR_CHARS) if total else ""


def _time_left(job: Job, now: datetime) -> str:
    if job.terminal or not job.expires_at:
        return ""
    return between(now, job.expires_at)


def _line(*parts: Text) -> Text:
    return _truncated(Text("  ").join(part for part in parts if part))


def _truncated(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
