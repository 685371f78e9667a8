"""The numbers on top of the page, in words: what each one says, and where it leads."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from batchflow.gateway.pages.display import ago, between, count, number, rounded, short_id, utc
from batchflow.gateway.pages.query import JobsQuery
from batchflow.overview.snapshot import BAD, Summary
from batchflow.queue import Queue
from batchflow.states import JobKind, JobState

#: No sweep for so many intervals, and for so long: beat has stopped.
_MISSED_SWEEPS: Final = 5
_SWEEP_OVERDUE_S: Final = 60.0

_NOUNS: Final = {
    JobKind.BATCH: ("batch", "batches"),
    JobKind.UPLOAD: ("upload", "uploads"),
    JobKind.DOWNLOAD: ("download", "downloads"),
}


@dataclass(frozen=True)
class StatTile:
    """One number."""

    name: str
    value: str
    #: What goes with it, in a few words.
    note: str = ""
    #: Where it leads.
    href: str = ""
    #: Whether somebody should look at it.
    alert: bool = False
    #: What the note says at length.
    title: str = ""


def stat_tiles(summary: Summary, sweep_interval_s: float) -> list[StatTile]:
    """All of them, in the order in which they are shown."""
    overdue_s = max(_SWEEP_OVERDUE_S, _MISSED_SWEEPS * sweep_interval_s)
    return [
        _running(summary),
        _queued(summary),
        _succeeded(summary),
        _failed(summary),
        _tokens(summary),
        _oldest(summary),
        _poll(summary, timedelta(seconds=overdue_s)),
        _workers(summary),
    ]


def said(summary: Summary) -> str:
    """The fleet in a sentence, for who listens to the page."""
    failed = summary.failed_last_hour
    return (
        f"{number(summary.running)} running, {number(summary.queued)} queued, "
        f"{number(failed)} failed in the last hour"
    )


def _running(summary: Summary) -> StatTile:
    kinds = ", ".join(
        count(running, *nouns)
        for kind, nouns in _NOUNS.items()
        if (running := summary.counts[kind][JobState.RUNNING])
    )
    return StatTile("Running", number(summary.running), kinds, _of(JobState.RUNNING))


def _queued(summary: Summary) -> StatTile:
    note = "not yet at OpenAI" if summary.queued else ""
    return StatTile("Queued", number(summary.queued), note, _of(JobState.QUEUED))


def _succeeded(summary: Summary) -> StatTile:
    return StatTile(
        "Succeeded, last hour",
        number(summary.succeeded_last_hour),
        f"{number(_all(summary, JobState.SUCCEEDED))} in all",
        _of(JobState.SUCCEEDED),
    )


def _failed(summary: Summary) -> StatTile:
    return StatTile(
        "Failed, last hour",
        number(summary.failed_last_hour),
        f"{number(_all(summary, *BAD))} in all",
        _of(*BAD),
        alert=summary.failed_last_hour > 0,
    )


def _tokens(summary: Summary) -> StatTile:
    since = f"since {summary.since:%-d %b %Y}" if summary.since else ""
    return StatTile(
        "Tokens",
        rounded(summary.input_tokens + summary.output_tokens),
        since,
        title=(
            f"{number(summary.input_tokens)} in, {number(summary.output_tokens)} out, "
            "in batches that have ended"
        ),
    )


def _oldest(summary: Summary) -> StatTile:
    if not summary.oldest_batch or not summary.oldest_batch_since:
        return StatTile("Oldest open batch", "none")
    return StatTile(
        "Oldest open batch",
        between(summary.oldest_batch_since, summary.at),
        short_id(summary.oldest_batch),
        f"/jobs/{summary.oldest_batch}",
        title=f"since {utc(summary.oldest_batch_since)}",
    )


def _poll(summary: Summary, overdue: timedelta) -> StatTile:
    polled = ago(summary.polled_at, summary.at) if summary.polled_at else "never"
    if not summary.swept_at or summary.at - summary.swept_at > overdue:
        since = f" for {between(summary.swept_at, summary.at)}" if summary.swept_at else ""
        return StatTile("Last poll", polled, f"no sweep{since}: does beat run?", alert=True)
    webhook = (
        f"webhook {ago(summary.webhook_at, summary.at)}"
        if summary.webhook_at
        else "no webhooks yet"
    )
    return StatTile("Last poll", polled, webhook)


def _workers(summary: Summary) -> StatTile:
    each = {queue: summary.workers.get(queue, 0) for queue in Queue}
    fewest = min(each.values())
    if missing := [queue for queue, workers in each.items() if not workers]:
        queues = " and ".join(missing)
        note = "none runs" if len(missing) == len(each) else f"none works on {queues}"
        return StatTile("Workers", number(fewest), note, alert=True)
    if fewest == max(each.values()):
        return StatTile("Workers", number(fewest), "on each queue")
    return StatTile(
        "Workers",
        number(fewest),
        ", ".join(f"{queue} {workers}" for queue, workers in each.items()),
    )


def _of(*states: JobState) -> str:
    return JobsQuery(state=frozenset(states)).address()


def _all(summary: Summary, *states: JobState) -> int:
    return sum(by_state[state] for by_state in summary.counts.values() for state in states)
