"""Jobs as text for people."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchflow.cli.output import STATE_STYLES, grid, pairs
from batchflow.jobs import Job
from batchflow.links import job_page
from batchflow.overview.cancellation import Cancellation
from batchflow.overview.formatting import ago, count, left, local_time, size
from batchflow.overview.job_view import timeline
from batchflow.overview.untrusted_text import one_line, printable
from batchflow.states import JobKind, JobState
from batchflow.store.records import CancelResult

_MESSAGE_CHARS = 300


def details(job: Job, now: datetime, *, public_url: str | None) -> Group:
    """Everything about a job and its history. ``now`` is Redis' time."""
    fields = pairs(
        [
            ("job", job.id),
            ("kind", job.kind),
            ("state", _state(job)),
            ("Flyte phase", job.phase),
            ("message", job.message),
            ("cancellation", "requested" if job.cancel_requested and not job.terminal else None),
            ("OpenAI status", job.openai_status),
            ("batch", job.batch_id),
            ("requests", _requests(job)),
            ("transferred", _transferred(job)),
            ("model", job.model),
            ("tokens", _tokens(job)),
            ("top error", job.top_error),
            ("input file", job.input_file_id),
            ("output file", job.output_file_id),
            ("error file", job.error_file_id),
            ("credential", job.credential),
            ("execution", job.execution or "local"),
            ("attempt", str(job.attempt) if job.attempt else None),
            ("generation", str(job.generation) if job.generation > 1 else None),
            ("created", _moment(job.created_at, now)),
            ("changed", f"{_moment(job.updated_at, now)} by {job.source or 'unknown'}"),
            ("last polled", _moment(job.checked_at, now) if job.checked_at else None),
            ("expires", _expiry(job, now)),
            ("page", job_page(public_url, job.id) if public_url else None),
        ]
    )
    history = list(_history(job))
    return Group(fields, Text(), grid(history)) if history else Group(fields)


def table(jobs: Sequence[Job], now: datetime) -> Table:
    """One line per job."""
    rows: Iterator[Sequence[Text | str]] = (
        (
            job.id,
            job.kind,
            _state(job),
            progress(job),
            listed_age(job, now),
            one_line(job.message, _MESSAGE_CHARS),
        )
        for job in jobs
    )
    return grid(rows, header=("job", "kind", "state", "done", "since", ""))


def progress(job: Job) -> str:
    """``12/240`` requests of a batch, ``1.5 MB`` of a transfer, or an empty string."""
    if job.kind is JobKind.BATCH:
        return f"{job.completed + job.failed:,}/{job.total:,}" if job.total else ""
    return size(job.bytes_done) if job.bytes_done else ""


def listed_age(job: Job, now: datetime) -> str:
    """The time since a live job was created, or since another one ended, by which lists sort."""
    return ago(job.updated_at if job.terminal else job.created_at, now)


def by_state(counts: Mapping[tuple[JobKind, JobState], int]) -> dict[str, int]:
    """Add up the jobs of all kinds in each state."""
    total: Counter[JobState] = Counter()
    for (_, state), number in counts.items():
        total[state] += number
    return {state.value: total[state] for state in JobState}


def counts_line(counts: Mapping[tuple[JobKind, JobState], int], *, matching: bool) -> str:
    """``7 jobs in total: 2 running, 5 succeeded.``"""
    states = by_state(counts)
    total = sum(states.values())
    if not total:
        return "There are no jobs."
    parts = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    line = f"{count(total, 'job')} in total: {parts}."
    return line if matching else f"No job matches. {line}"


def cancellation_line(cancellation: Cancellation) -> str:
    """The result of a cancellation request."""
    job = cancellation.job
    if cancellation.result is CancelResult.CANCELLED:
        return f"Cancelled {job.id}."
    if cancellation.result is CancelResult.ENDED:
        return f"{job.id} had already ended: {job.state}."
    if cancellation.delayed:
        return (
            f"Recorded the cancellation of {job.id}. Celery's broker is unavailable; the workers "
            "cancel the job once they are connected again."
        )
    what = job.batch_id or "the job's work at OpenAI"
    return f"The workers are cancelling {what}. Check it with `batchflow status {job.id}`."


def token_counts(usage: Mapping[str, Any] | None) -> str | None:
    """``1,234 (1,000 in, 234 out)``"""
    if not usage or usage.get("total_tokens") is None:
        return None
    parts = ", ".join(
        f"{usage[name]:,} {what}"
        for name, what in (("input_tokens", "in"), ("output_tokens", "out"))
        if usage.get(name) is not None
    )
    return f"{usage['total_tokens']:,}" + (f" ({parts})" if parts else "")


def _history(job: Job) -> Iterator[list[Text | str]]:
    for event in timeline(job):
        yield [
            Text(local_time(event.at), style="dim"),
            Text(event.state, style=STATE_STYLES[event.state]),
            printable(event.openai_status),
            event.source,
            one_line(event.message, _MESSAGE_CHARS),
        ]


def _state(job: Job) -> Text:
    return Text(job.state, style=STATE_STYLES[job.state])


def _requests(job: Job) -> str | None:
    if job.kind is not JobKind.BATCH or not job.total:
        return None
    return f"{job.completed:,} answered and {job.failed:,} failed of {job.total:,}"


def _transferred(job: Job) -> str | None:
    if job.kind is JobKind.BATCH or not job.bytes_done:
        return None
    of = f" of {size(job.bytes_total)}" if job.bytes_total > job.bytes_done else ""
    return f"{size(job.bytes_done)}{of}"


def _tokens(job: Job) -> str | None:
    counted = {"input_tokens": job.input_tokens, "output_tokens": job.output_tokens}
    total = sum(counted.values())
    return token_counts({"total_tokens": total, **counted}) if total else None


def _expiry(job: Job, now: datetime) -> str | None:
    if job.terminal or not job.expires_at:
        return None
    return f"{local_time(job.expires_at)} ({left(job.expires_at, now)})"


def _moment(moment: datetime, now: datetime) -> str:
    return f"{local_time(moment)} ({ago(moment, now)})"
