"""Jobs as people read them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.text import Text

from batchflow.cli import text
from batchflow.jobs import Job
from batchflow.links import job_page
from batchflow.overview.cancellation import Cancellation
from batchflow.overview.history import timeline
from batchflow.states import JobKind, JobState, phase_of
from batchflow.store.records import CancelResult

#: How a state is shown.
COLOURS = {
    JobState.QUEUED: "cyan",
    JobState.RUNNING: "blue",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.RETRYABLE: "yellow",
    JobState.CANCELLED: "magenta",
}

_MESSAGE_CHARS = 300


def details(job: Job, now_s: float, *, public_url: str | None) -> Text:
    """All about a job, and what it has gone through. ``now_s`` is Redis' time."""
    rows: list[tuple[str, Text | str | None]] = [
        ("job", job.id),
        ("kind", job.kind),
        ("state", _state(job)),
        ("Flyte phase", phase_of(job.kind, job.state, job.stage)),
        ("message", job.message),
        ("cancelling", "asked for" if job.cancel_requested and not job.terminal else None),
        ("OpenAI status", job.openai_status),
        ("batch", job.batch_id),
        ("requests", _requests(job)),
        ("transferred", _transferred(job)),
        ("model", job.model),
        ("tokens", _tokens(job)),
        ("most errors", job.top_error),
        ("input file", job.input_file_id),
        ("output file", job.output_file_id),
        ("error file", job.error_file_id),
        ("credential", job.credential),
        ("execution", job.execution or "local"),
        ("attempt", str(job.attempt) if job.attempt else None),
        ("generation", str(job.generation) if job.generation > 1 else None),
        ("created", _moment(job.created_at, now_s)),
        ("changed", f"{_moment(job.updated_at, now_s)} by {job.source or 'unknown'}"),
        ("asked OpenAI", _moment(job.checked_at, now_s) if job.checked_at else None),
        ("expires", _expiry(job, now_s)),
        ("page", job_page(public_url, job.id) if public_url else None),
    ]
    return Text("\n\n").join(part for part in (pairs(rows), _history(job)) if part)


def table(jobs: Sequence[Job], now_s: float) -> Text:
    """Jobs, one in a line."""
    header = [Text(name, style="dim") for name in ("job", "kind", "state", "done", "since", "")]
    rows = [
        [
            Text(job.id),
            Text(job.kind),
            _state(job),
            Text(done(job)),
            Text(since(job, now_s)),
            Text(text.one_line(job.message, _MESSAGE_CHARS)),
        ]
        for job in jobs
    ]
    return aligned([header, *rows])


def pairs(rows: Iterable[tuple[str, Text | str | None]]) -> Text:
    """Names and values, one pair in a line; those without a value are left out."""
    shown = [(name, value) for name, value in rows if value]
    width = max(len(name) for name, _ in shown) + 2
    lines = []
    for name, value in shown:
        line = Text(name.ljust(width), style="dim")
        content = value if isinstance(value, Text) else Text(text.printable(value))
        for number, part in enumerate(content.split("\n")):
            lead = line if number == 0 else Text(" " * width)
            lines.append(Text.assemble(lead, part))
    return Text("\n").join(lines)


def done(job: Job) -> str:
    """``12/240`` requests of a batch, ``1.5 MB`` of a transfer, or nothing."""
    if job.kind is JobKind.BATCH:
        return f"{job.completed + job.failed:,}/{job.total:,}" if job.total else ""
    return f"{job.bytes_done / 1_000_000:,.1f} MB" if job.bytes_done else ""


def since(job: Job, now_s: float) -> str:
    """When a live job was made, or another one ended: the time by which lists are sorted."""
    return text.ago(job.updated_at if job.terminal else job.created_at, now_s)


def by_state(counts: Mapping[tuple[JobKind, JobState], int]) -> dict[str, int]:
    """How many jobs are in each state, of all kinds."""
    total: Counter[JobState] = Counter()
    for (_, state), number in counts.items():
        total[state] += number
    return {state.value: total[state] for state in JobState}


def counts_line(counts: Mapping[tuple[JobKind, JobState], int], *, matching: bool) -> str:
    """``7 jobs: 2 running, 5 succeeded``."""
    states = by_state(counts)
    total = sum(states.values())
    if not total:
        return "There are no jobs."
    parts = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    line = f"{text.count(total, 'job')} in all: {parts}."
    return line if matching else f"No job matches. {line}"


def cancelled(done: Cancellation) -> str:
    """What a wish to cancel has come to."""
    job = done.job
    if done.result is CancelResult.CANCELLED:
        return f"Cancelled {job.id}."
    if done.result is CancelResult.ENDED:
        return f"{job.id} had ended already: {job.state}."
    if done.delayed:
        return (
            f"Recorded that {job.id} is to be cancelled. Celery's broker is away; "
            "the workers cancel it when they are back."
        )
    what = job.batch_id or "whatever it has at OpenAI"
    return f"A worker cancels {what}. `batchflow status {job.id}` says when it has ended."


def tokens(usage: Mapping[str, Any] | None) -> str | None:
    """``1,234 (1,000 in, 234 out)``."""
    if not usage or usage.get("total_tokens") is None:
        return None
    parts = ", ".join(
        f"{usage[name]:,} {what}"
        for name, what in (("input_tokens", "in"), ("output_tokens", "out"))
        if usage.get(name) is not None
    )
    return f"{usage['total_tokens']:,}" + (f" ({parts})" if parts else "")


def aligned(rows: Sequence[Sequence[Text]]) -> Text:
    """Rows of cells, the columns as wide as they have to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [
            Text.assemble(cell, " " * (width - len(cell)))
            for cell, width in zip(row, widths, strict=True)
        ]
        line = Text("  ").join(padded)
        line.rstrip()
        lines.append(line)
    return Text("\n").join(lines)


def _history(job: Job) -> Text | None:
    """A line for each transition, oldest first."""
    rows = [
        [
            Text(text.local_time(event.at), style="dim"),
            Text(event.state, style=COLOURS[event.state]),
            Text(text.printable(event.openai_status)),
            Text(event.source),
            Text(text.one_line(event.message, _MESSAGE_CHARS)),
        ]
        for event in timeline(job)
    ]
    return aligned(rows) if rows else None


def _state(job: Job) -> Text:
    return Text(job.state, style=COLOURS[job.state])


def _requests(job: Job) -> str | None:
    if job.kind is not JobKind.BATCH or not job.total:
        return None
    return f"{job.completed:,} answered and {job.failed:,} failed of {job.total:,}"


def _transferred(job: Job) -> str | None:
    if job.kind is JobKind.BATCH or not job.bytes_done:
        return None
    of = f" of {job.bytes_total:,}" if job.bytes_total > job.bytes_done else ""
    return f"{job.bytes_done:,}{of} bytes"


def _tokens(job: Job) -> str | None:
    counted = {"input_tokens": job.input_tokens, "output_tokens": job.output_tokens}
    total = sum(counted.values())
    return tokens({"total_tokens": total, **counted}) if total else None


def _expiry(job: Job, now_s: float) -> str | None:
    """When OpenAI gives a live batch up, and how long that is."""
    if job.terminal or not job.expires_at:
        return None
    return f"{text.local_time(job.expires_at)} ({text.time_left(job.expires_at, now_s)})"


def _moment(moment: datetime, now_s: float) -> str:
    return f"{text.local_time(moment)} ({text.ago(moment, now_s)})"
