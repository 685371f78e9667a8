"""The stat tiles at the top of the page: numbers of the fleet, with notes and links."""

from dataclasses import dataclass
from typing import Final

from batchflow.gateway.pages.list_query import ListQuery
from batchflow.overview.formatting import (
    ago,
    between,
    count,
    duration,
    number,
    short_id,
    short_number,
    utc,
)
from batchflow.overview.health import beat_has_stopped, polls_have_stopped, queues_without_worker
from batchflow.overview.summary import FAILURES, Summary
from batchflow.queue import Queue
from batchflow.states import JobKind, JobState

_NOUNS: Final = {
    JobKind.BATCH: ("batch", "batches"),
    JobKind.UPLOAD: ("upload", "uploads"),
    JobKind.DOWNLOAD: ("download", "downloads"),
}


@dataclass(frozen=True)
class StatTile:
    """A number of the fleet."""

    name: str
    value: str
    #: A few words below the number.
    note: str = ""
    #: A link.
    href: str = ""
    #: Whether an operator should act.
    alert: bool = False
    #: The note in full.
    title: str = ""


def stat_tiles(
    summary: Summary, *, sweep_interval_s: float, poll_interval_s: float
) -> list[StatTile]:
    """All tiles, in the order of the page."""
    return [
        *_jobs(summary),
        _tokens(summary),
        _oldest(summary),
        _last_poll(summary, sweep_interval_s, poll_interval_s),
        _workers(summary),
    ]


def spoken_summary(summary: Summary) -> str:
    """The fleet in a sentence, for screen readers."""
    return (
        f"{number(summary.running)} running, {number(summary.queued)} queued, "
        f"{number(summary.failed_last_hour)} failed in the last hour"
    )


def _jobs(summary: Summary) -> list[StatTile]:
    kinds = ", ".join(
        count(running, *nouns)
        for kind, nouns in _NOUNS.items()
        if (running := summary.counts[kind][JobState.RUNNING])
    )
    return [
        StatTile("Running", number(summary.running), kinds, _url(JobState.RUNNING)),
        StatTile(
            "Queued",
            number(summary.queued),
            "not yet at OpenAI" if summary.queued else "",
            _url(JobState.QUEUED),
        ),
        StatTile(
            "Succeeded, last hour",
            number(summary.succeeded_last_hour),
            _in_total(summary, JobState.SUCCEEDED),
            _url(JobState.SUCCEEDED),
        ),
        StatTile(
            "Failed, last hour",
            number(summary.failed_last_hour),
            _in_total(summary, *FAILURES),
            _url(*FAILURES),
            alert=summary.failed_last_hour > 0,
        ),
    ]


def _tokens(summary: Summary) -> StatTile:
    since = f"since {summary.since:%-d %b %Y}" if summary.since else ""
    return StatTile(
        "Tokens",
        short_number(summary.input_tokens + summary.output_tokens),
        since,
        title=(
            f"{number(summary.input_tokens)} input, {number(summary.output_tokens)} output, "
            "in batches that have ended"
        ),
    )


def _oldest(summary: Summary) -> StatTile:
    if not summary.oldest_batch or not summary.oldest_batch_since:
        return StatTile("Oldest live batch", "none")
    return StatTile(
        "Oldest live batch",
        between(summary.oldest_batch_since, summary.at),
        short_id(summary.oldest_batch),
        f"/jobs/{summary.oldest_batch}",
        title=f"since {utc(summary.oldest_batch_since)}",
    )


def _last_poll(summary: Summary, sweep_interval_s: float, poll_interval_s: float) -> StatTile:
    polled = ago(summary.polled_at, summary.at)
    sweep_age_s = summary.age_s(summary.swept_at)
    if beat_has_stopped(sweep_age_s, sweep_interval_s):
        since = f" for {duration(sweep_age_s)}" if sweep_age_s is not None else ""
        return StatTile("Last poll", polled, f"no sweep{since}: check beat", alert=True)
    if polls_have_stopped(summary.unpolled_s, poll_interval_s):
        return StatTile("Last poll", polled, "OpenAI does not answer polls", alert=True)
    last = summary.webhook_at
    return StatTile(
        "Last poll", polled, f"webhook {ago(last, summary.at)}" if last else "no webhooks yet"
    )


def _workers(summary: Summary) -> StatTile:
    by_queue = {queue: summary.workers.get(queue, 0) for queue in Queue}
    fewest, missing = min(by_queue.values()), queues_without_worker(summary.workers)
    if len(missing) == len(Queue):
        note = "none is running"
    elif missing:
        note = f"none on {' and '.join(missing)}"
    elif fewest == max(by_queue.values()):
        note = "on each queue"
    else:
        note = ", ".join(f"{queue} {workers}" for queue, workers in by_queue.items())
    return StatTile("Workers", number(fewest), note, alert=bool(missing))


def _url(*states: JobState) -> str:
    return ListQuery(state=frozenset(states)).url()


def _in_total(summary: Summary, *states: JobState) -> str:
    total = sum(by_state[state] for by_state in summary.counts.values() for state in states)
    return f"{number(total)} in total"
