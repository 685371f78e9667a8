"""The fleet: Celery's broker, queues, workers and beat, and whether jobs make progress."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from celery import Celery
from kombu.exceptions import KombuError

from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.overview.formatting import count, duration
from batchflow.overview.health import (
    COLLECT_ADVICE,
    MESSAGE_WAITS_LONG_S,
    UNREADABLE_ADVICE,
    beat_has_stopped,
    job_is_overdue,
    polls_have_stopped,
)
from batchflow.overview.snapshot import read_snapshot
from batchflow.overview.summary import summarize
from batchflow.queue import Queue, all_queues, make_app, queue_name
from batchflow.queue.lengths import queue_lengths
from batchflow.settings import Settings
from batchflow.states import LIVE, JobKind, JobState
from batchflow.store import index
from batchflow.store.records import isolated

_BROKER_TIMEOUT_S: Final = 6.0
#: The limit on unreadable records that are named.
_SHOWN_RECORDS: Final = 3
#: How long Celery's workers have to reply.
_PING_TIMEOUT_S: Final = 1.5


async def broker(context: CheckContext) -> Iterable[CheckResult]:
    """Check that Celery's broker can be reached."""
    which = "a separate broker" if context.settings.broker_url else "in the same Redis as the jobs"
    app = make_app(context.settings)
    try:
        driver, took_s = await in_thread(partial(_connect, app))
    except (KombuError, OSError) as error:
        seen = f"can't be reached ({type(error).__name__}); {which}"
        advice = "Check that it is running, and BATCHFLOW_BROKER_URL or BATCHFLOW_REDIS_URL."
        return [CheckResult(Level.PROBLEM, "broker", seen, advice)]
    seen = f"{driver}, {which}; responds in {took_s * 1_000:.0f} ms"
    return [CheckResult(Level.OK, "broker", seen)]


async def queues(context: CheckContext) -> Iterable[CheckResult]:
    """Check the number and age of the messages in each queue."""
    app = make_app(context.settings)
    names = all_queues(context.settings)
    found = await in_thread(partial(queue_lengths, app, names, timeout_s=_BROKER_TIMEOUT_S))
    results = []
    for name, backlog in found.items():
        seen = count(backlog.messages, "message") if backlog.messages else "empty"
        if backlog.oldest_s is not None:
            seen += f", the oldest waiting for {duration(backlog.oldest_s)}"
        if (backlog.oldest_s or 0) > MESSAGE_WAITS_LONG_S:
            advice = f"Start more workers: celery -A batchflow_workers worker -Q {name}"
            results.append(CheckResult(Level.WARNING, name, seen, advice))
        else:
            results.append(CheckResult(Level.OK, name, seen))
    return results


async def workers(context: CheckContext) -> Iterable[CheckResult]:
    """Check by the workers' heartbeats that each queue has one."""
    alive = (await read_snapshot(context.store)).live_workers
    on_queue = {
        queue: [worker.name for worker in alive if queue in worker.queues] for queue in Queue
    }
    without_heartbeat: dict[str, int] = {}
    if not all(on_queue.values()):
        without_heartbeat = await in_thread(partial(_workers_by_celery, context.settings))
    return [
        _on_queue(context.settings, queue, names, without_heartbeat.get(queue, 0))
        for queue, names in on_queue.items()
    ]


async def beat(context: CheckContext) -> Iterable[CheckResult]:
    """Check that sweeps, which beat triggers, are running."""
    fleet = await read_snapshot(context.store)
    swept_s = fleet.last_seen_s.get("sweep")
    age_s = None if swept_s is None else fleet.age_s(swept_s)
    seen = "no sweep has run yet" if age_s is None else f"last sweep {duration(age_s)} ago"
    if not beat_has_stopped(age_s, context.settings.sweep_interval_s):
        return [CheckResult(Level.OK, "beat", seen)]
    advice = (
        "Start beat: celery -A batchflow_workers beat. Sweeps also need a worker on "
        f"{queue_name(context.settings.key_prefix, Queue.POLL)}."
    )
    return [CheckResult(Level.PROBLEM, "beat", seen, advice)]


async def overdue_jobs(context: CheckContext) -> Iterable[CheckResult]:
    """Check that sweeps find due jobs in time."""
    lag_s = (await read_snapshot(context.store)).due_lag_s
    if not job_is_overdue(lag_s, context.settings.sweep_interval_s):
        return [CheckResult(Level.OK, "due jobs", "none is overdue")]
    seen = f"the oldest is overdue by {duration(lag_s)}"
    advice = "Check beat, and the workers on the poll queue and their logs."
    return [CheckResult(Level.PROBLEM, "due jobs", seen, advice)]


async def due_times(context: CheckContext) -> Iterable[CheckResult]:
    """Check that sweeps know of every live job, by the due times."""
    # A job can change between two of Redis' replies, so a difference must be seen twice.
    for _ in range(2):
        fleet = await read_snapshot(context.store)
        live = fleet.count(*LIVE)
        if fleet.due_times >= live:
            seen = f"{count(live, 'live job')}, all with a due time" if live else "no live job"
            return [CheckResult(Level.OK, "due times", seen)]
    checked_s = fleet.last_seen_s.get("due_check")
    last = "never" if checked_s is None else f"{duration(fleet.age_s(checked_s))} ago"
    seen = f"only {fleet.due_times} of {count(live, 'live job')} have a due time"
    advice = (
        "Sweeps do not see the others. Once an hour a sweep looks for them and makes them due; it "
        f"last did so: {last}. Nothing to do unless this is longer than an hour ago."
    )
    return [CheckResult(Level.WARNING, "due times", seen, advice)]


async def records(context: CheckContext) -> Iterable[CheckResult]:
    """Check that the workers can read the records of all live jobs."""
    number = await context.store.run(index.unreadable())
    if not number:
        return [CheckResult(Level.OK, "records", "the workers can read those of all live jobs")]
    some = await context.store.run(isolated(_SHOWN_RECORDS))
    shown = ", ".join(sorted(some))
    seen = f"the workers can't read those of {count(number, 'live job')}, such as {shown}"
    return [CheckResult(Level.PROBLEM, "records", seen, UNREADABLE_ADVICE)]


async def polls(context: CheckContext) -> Iterable[CheckResult]:
    """Check that running batches are polled, and list the jobs that wait for quota."""
    summary = await summarize(context.store)
    running = summary.counts[JobKind.BATCH][JobState.RUNNING]
    waits = [
        CheckResult(
            Level.WARNING, "waiting", f"{wait.what}: {count(wait.jobs, 'job')}; {wait.message}"
        )
        for wait in summary.waits
        if wait.jobs
    ]
    if not running:
        return [CheckResult(Level.OK, "polls", "no batch is running"), *waits]
    age_s = summary.age_s(summary.polled_at)
    last = "never" if age_s is None else f"{duration(age_s)} ago"
    seen = f"{count(running, 'batch job')} running; last successful poll: {last}"
    if not polls_have_stopped(summary.unpolled_s, context.settings.poll_interval_s):
        return [CheckResult(Level.OK, "polls", seen), *waits]
    advice = "Check the credentials below, and the logs of the workers on the poll queue."
    return [CheckResult(Level.PROBLEM, "polls", seen, advice), *waits]


async def uncollected_results(context: CheckContext) -> Iterable[CheckResult]:
    """Check that Flyte receives the ends of jobs."""
    snapshot = await read_snapshot(context.store)
    if not snapshot.uncollected:
        return [CheckResult(Level.OK, "collection", "Flyte has received the end of every job")]
    seen = (
        f"Flyte has not received the end of {count(snapshot.uncollected, 'job')}; the oldest is "
        f"{snapshot.oldest_uncollected}"
    )
    return [CheckResult(Level.PROBLEM, "collection", seen, COLLECT_ADVICE)]


def _connect(app: Celery) -> tuple[str, float]:
    """Return the broker's type and the time to connect, in seconds."""
    began = time.perf_counter()
    # The type of a kombu connection depends on the broker.
    connection: Any
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=_BROKER_TIMEOUT_S)
        return str(connection.transport.driver_name), time.perf_counter() - began


def _on_queue(
    settings: Settings, queue: Queue, names: list[str], without_heartbeat: int
) -> CheckResult:
    name = queue_name(settings.key_prefix, queue)
    what = f"workers on {queue}"
    if names:
        return CheckResult(Level.OK, what, f"{len(names)}: {', '.join(sorted(names))}")
    if without_heartbeat:
        seen = (
            f"Celery finds {count(without_heartbeat, 'worker')}, but there is no heartbeat in Redis"
        )
        advice = "Give them the same BATCHFLOW_REDIS_URL and BATCHFLOW_KEY_PREFIX as this command."
        return CheckResult(Level.PROBLEM, what, seen, advice)
    advice = f"Start one: celery -A batchflow_workers worker -Q {name}"
    return CheckResult(Level.PROBLEM, what, "none", advice)


def _workers_by_celery(settings: Settings) -> dict[str, int]:
    """Count the workers on each queue that reply to Celery; empty without a broker."""
    try:
        inspect = make_app(settings).control.inspect(timeout=_PING_TIMEOUT_S)
        replies = inspect.active_queues() or {}
    except (KombuError, OSError):
        return {}
    names = [[queue["name"] for queue in found] for found in replies.values()]
    return {
        queue: sum(queue_name(settings.key_prefix, queue) in found for found in names)
        for queue in Queue
    }
