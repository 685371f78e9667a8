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
        _running(summary),
        _queued(summary),
        _succeeded(summary),
        _failed(summary),
        _tokens(summary),
        _oldest(summary),
        _last_poll(summary, sweep_interval_s, poll_interval_s),
        _workers(summary),
    ]


def spoken_summary(summary: Summary) -> str:
    """The fleet in a sentence, for screen readers."""
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
    return StatTile("Running", number(summary.running), kinds, _url(JobState.RUNNING))


def _queued(summary: Summary) -> StatTile:
    note = "not yet at OpenAI" if summary.queued else ""
    return StatTile("Queued", number(summary.queued), note, _url(JobState.QUEUED))


def _succeeded(summary: Summary) -> StatTile:
    return StatTile(
        "Succeeded, last hour",
        number(summary.succeeded_last_hour),
        f"{number(_total(summary, JobState.SUCCEEDED))} in total",
        _url(JobState.SUCCEEDED),
    )


def _failed(summary: Summary) -> StatTile:
    return StatTile(
        "Failed, last hour",
        number(summary.failed_last_hour),
        f"{number(_total(summary, *FAILURES))} in total",
        _url(*FAILURES),
        alert=summary.failed_last_hour > 0,
    )


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
    polled = ago(summary.polled_at, summary.at) if summary.polled_at else "never"
    sweep_age_s = summary.age_s(summary.swept_at)
    if beat_has_stopped(sweep_age_s, sweep_interval_s):
        since = f" for {duration(sweep_age_s)}" if sweep_age_s is not None else ""
        return StatTile("Last poll", polled, f"no sweep{since}: check beat", alert=True)
    if polls_have_stopped(summary.unpolled_s, poll_interval_s):
        return StatTile("Last poll", polled, "OpenAI does not answer polls", alert=True)
    webhook = (
        f"webhook {ago(summary.webhook_at, summary.at)}"
        if summary.webhook_at
        else "no webhooks yet"
    )
    return StatTile("Last poll", polled, webhook)


def _workers(summary: Summary) -> StatTile:
    by_queue = {queue: summary.workers.get(queue, 0) for queue in Queue}
    fewest = min(by_queue.values())
    if missing := queues_without_worker(summary.workers):
        queues = " and ".join(missing)
        note = "none is running" if len(missing) == len(by_queue) else f"none on {queues}"
        return StatTile("Workers", number(fewest), note, alert=True)
    if fewest == max(by_queue.values()):
        return StatTile("Workers", number(fewest), "on each queue")
    return StatTile(
        "Workers",
        number(fewest),
        ", ".join(f"{queue} {workers}" for queue, workers in by_queue.items()),
    )


def _url(*states: JobState) -> str:
    return ListQuery(state=frozenset(states)).url()


def _total(summary: Summary, *states: JobState) -> int:
    return sum(by_state[state] for by_state in summary.counts.values() for state in states)
