"""What `batchflow watch` draws: numbers on top, then jobs, as much as the terminal has room for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchflow.cli import job_views, text
from batchflow.jobs import Job
from batchflow.overview.summary import Summary, Wait
from batchflow.queue import Queue
from batchflow.states import JobKind

_BAR_CHARS = 12
#: Column -> how wide the terminal has to be for it, in characters.
_COLUMNS = {
    "job": 0,
    "kind": 90,
    "state": 0,
    "progress": 110,
    "done": 0,
    "since": 0,
    "left": 90,
}
#: Waits that are told of.
_MOST_WAITS = 3
#: Lines of numbers, an empty one, and the table's header.
_OTHER_LINES = 4


@dataclass(frozen=True)
class Seen:
    """The fleet at a moment, and the jobs that are wanted: live ones first."""

    summary: Summary
    jobs: Sequence[Job]


def rows(height: int) -> int:
    """How many jobs fit on a screen of so many lines, when nothing waits."""
    return max(1, height - _OTHER_LINES)


def frame(seen: Seen | None, trouble: str, *, width: int, height: int) -> RenderableType:
    """The screen. ``trouble`` is why it doesn't show the present."""
    parts: list[RenderableType] = []
    if trouble:
        parts.append(_cut(Text(f"{text.printable(trouble)} Trying again.", style="bold red")))
    if seen:
        parts += [_numbers(seen.summary), _pulse(seen.summary)]
        parts += [_wait(wait) for wait in seen.summary.waits[:_MOST_WAITS]]
        parts.append(Text())
        left = height - len(parts) - 1
        parts.append(_table(seen.jobs[: max(1, left)], seen.summary.at.timestamp(), width))
    return Group(*parts)


def _numbers(summary: Summary) -> Text:
    tokens = summary.input_tokens + summary.output_tokens
    failed = summary.failed_last_hour
    return _line(
        Text(f"{summary.running:,} running", style="bold"),
        Text(f"{summary.queued:,} queued"),
        Text.assemble(
            f"last hour: {summary.succeeded_last_hour:,} succeeded, ",
            (f"{failed:,} failed", "red" if failed else ""),
        ),
        Text(f"{tokens:,} tokens"),
        Text(_oldest(summary)),
    )


def _pulse(summary: Summary) -> Text:
    workers = [
        Text(f"{queue} {summary.workers.get(queue, 0)}", style=_if_none(summary, queue))
        for queue in Queue
    ]
    return _line(
        Text.assemble("workers: ", Text(", ").join(workers)),
        Text(f"swept {_ago(summary, summary.swept_at)}"),
        Text(f"polled {_ago(summary, summary.polled_at)}"),
        Text(f"webhook {_ago(summary, summary.webhook_at)}"),
    )


def _if_none(summary: Summary, queue: Queue) -> str:
    return "" if summary.workers.get(queue) else "bold red"


def _oldest(summary: Summary) -> str:
    if not summary.oldest_batch_since:
        return ""
    age_s = (summary.at - summary.oldest_batch_since).total_seconds()
    return f"oldest batch {text.duration(age_s)}"


def _ago(summary: Summary, moment: datetime | None) -> str:
    return text.ago(moment, summary.at.timestamp()) if moment else "never"


def _wait(wait: Wait) -> Text:
    jobs = f", {text.count(wait.jobs, 'job')}" if wait.jobs is not None else ""
    what = text.one_line(f"{wait.what}{jobs}: {wait.message}", 300)
    return _cut(Text(what, style="yellow"))


def _table(jobs: Sequence[Job], now_s: float, width: int) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim", highlight=False)
    columns = [column for column, least in _COLUMNS.items() if width >= least]
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        cells: dict[str, RenderableType] = {
            "job": job.id,
            "kind": job.kind,
            "state": Text(job.state, style=job_views.COLOURS[job.state]),
            "progress": _bar(job),
            "done": job_views.done(job),
            "since": job_views.since(job, now_s),
            "left": _left(job, now_s),
        }
        message = Text(text.one_line(job.message or job.openai_status, 300))
        table.add_row(*(cells[column] for column in columns), message)
    return table


def _bar(job: Job) -> RenderableType:
    done, total = (
        (job.completed + job.failed, job.total)
        if job.kind is JobKind.BATCH
        else (job.bytes_done, job.bytes_total)
    )
    return ProgressBar(total=total, completed=done, width=_BAR_CHARS) if total else ""


def _left(job: Job, now_s: float) -> str:
    if job.terminal or not job.expires_at:
        return ""
    return text.duration(max(0.0, job.expires_at.timestamp() - now_s))


def _line(*parts: Text) -> Text:
    return _cut(Text("  ").join(part for part in parts if part))


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
