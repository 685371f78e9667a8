"""The fleet at the top of the page: its numbers, and what jobs wait for."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
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
from batchflow.overview.health import (
    COLLECT_ADVICE,
    UNREADABLE_ADVICE,
    beat_has_stopped,
    polls_have_stopped,
    queues_without_worker,
)
from batchflow.overview.summary import FAILURES, Summary, Wait
from batchflow.queue import QUEUE_OF, STEP_OF, Queue, Step
from batchflow.states import LIVE, JobKind, JobState

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


@dataclass(frozen=True)
class Blocker:
    """A reason why jobs wait."""

    what: str
    message: str
    #: The number of jobs, or the time until OpenAI is called again.
    extent: str
    href: str


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


def blockers(summary: Summary) -> list[Blocker]:
    """All reasons why jobs wait."""
    return [
        *_missing_workers(summary),
        *_uncollected(summary),
        *_unreadable(summary),
        *(_blocker(wait, summary.at) for wait in summary.waits),
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


def _missing_workers(summary: Summary) -> Iterator[Blocker]:
    """Queues that jobs need, and that no worker takes messages from."""
    needed: dict[Queue, list[tuple[JobKind, JobState]]] = {}
    for kind, step in STEP_OF.items():
        needed.setdefault(QUEUE_OF[step], []).append((kind, JobState.QUEUED))
    needed.setdefault(QUEUE_OF[Step.POLL], []).append((JobKind.BATCH, JobState.RUNNING))
    missing = queues_without_worker(summary.workers)
    for queue, waiting in needed.items():
        jobs = sum(summary.counts[kind][state] for kind, state in waiting)
        if jobs and queue in missing:
            query = ListQuery(
                state=frozenset(state for _, state in waiting),
                kind=frozenset(kind for kind, _ in waiting),
            )
            yield Blocker(
                f"For a worker on the queue {queue}",
                "No worker is running. Start one: celery -A batchflow_workers worker",
                count(jobs, "job"),
                query.url(),
            )


def _uncollected(summary: Summary) -> Iterator[Blocker]:
    """Results that Flyte has not asked for."""
    if summary.uncollected:
        yield Blocker(
            "For Flyte to collect results",
            COLLECT_ADVICE,
            count(summary.uncollected, "job"),
            f"/jobs/{summary.oldest_uncollected}",
        )


def _unreadable(summary: Summary) -> Iterator[Blocker]:
    """Jobs that no worker of this version can advance."""
    if summary.unreadable:
        yield Blocker(
            "For a version that can read their records",
            UNREADABLE_ADVICE,
            count(summary.unreadable, "job"),
            _url(*LIVE),
        )


def _blocker(wait: Wait, now: datetime) -> Blocker:
    credential, what = wait.what, f"For OpenAI, with {wait.what}"
    if wait.reason == "capacity":
        credential, _, model = wait.what.rpartition("|")
        what = f"For quota at OpenAI, {model or 'any model'} with {credential}"
    extent = count(wait.jobs, "job") if wait.jobs is not None else ""
    if wait.until:
        extent = f"called again in {between(now, wait.until)}"
    return Blocker(what, wait.message, extent, ListQuery(state=LIVE, text=credential).url())


def _url(*states: JobState) -> str:
    return ListQuery(state=frozenset(states)).url()


def _in_total(summary: Summary, *states: JobState) -> str:
    total = sum(by_state[state] for by_state in summary.counts.values() for state in states)
    return f"{number(total)} in total"
