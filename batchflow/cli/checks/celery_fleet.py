"""Celery: the broker, its queues, the workers on them, and beat."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from celery import Celery
from kombu.exceptions import KombuError

from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.cli.text import count, duration
from batchflow.overview.health import MESSAGE_WAITS_LONG_S, beat_has_stopped, worker_is_alive
from batchflow.queue import Queue, all_queues, make_app, queue_name
from batchflow.queue.lengths import queue_lengths
from batchflow.settings import Settings
from batchflow.store import heartbeats, records

#: How long the broker may take, in seconds.
_PATIENCE_S: Final = 6.0
#: How long Celery's workers have for an answer, in seconds.
_PING_S: Final = 1.5


async def broker(look: CheckContext) -> Iterable[CheckResult]:
    """Whether it can be reached."""
    which = "of its own" if look.settings.broker_url else "the Redis of the jobs"
    app = make_app(look.settings)
    try:
        driver, took_s = await in_thread(partial(_connect, app))
    except (KombuError, OSError) as error:
        seen = f"can't be reached ({type(error).__name__}), {which}"
        advice = "Look whether it runs, and at BATCHFLOW_BROKER_URL or BATCHFLOW_REDIS_URL."
        return [CheckResult(Level.PROBLEM, "broker", seen, advice)]
    return [
        CheckResult(Level.OK, "broker", f"{driver}, {which}; answers in {took_s * 1_000:.0f} ms")
    ]


async def queues(look: CheckContext) -> Iterable[CheckResult]:
    """How much waits in them."""
    app = make_app(look.settings)
    names = all_queues(look.settings)
    found = await in_thread(partial(queue_lengths, app, names, timeout_s=_PATIENCE_S))
    findings = []
    for name, backlog in found.items():
        seen = count(backlog.messages, "message") if backlog.messages else "empty"
        if backlog.oldest_s is not None:
            seen += f", the oldest for {duration(backlog.oldest_s)}"
        if (backlog.oldest_s or 0) > MESSAGE_WAITS_LONG_S:
            advice = f"Start more workers: celery -A batchflow_workers worker -Q {name}"
            findings.append(CheckResult(Level.WARNING, name, seen, advice))
        else:
            findings.append(CheckResult(Level.OK, name, seen))
    return findings


async def workers(look: CheckContext) -> Iterable[CheckResult]:
    """Who takes messages from each queue, by the workers' own signs of life."""
    now_s = await look.store.run(records.time())
    alive = [
        worker
        for worker in await look.store.run(heartbeats.workers())
        if worker_is_alive(worker.seen_s, now_s)
    ]
    on_queue = {
        queue: [worker.name for worker in alive if queue in worker.queues] for queue in Queue
    }
    strangers: dict[str, int] = {}
    if not all(on_queue.values()):
        strangers = await in_thread(partial(_by_celery, look.settings))
    return [
        _on_queue(look.settings, queue, names, strangers.get(queue, 0))
        for queue, names in on_queue.items()
    ]


async def beat(look: CheckContext) -> Iterable[CheckResult]:
    """Its last tick that a worker has carried out."""
    now_s = await look.store.run(records.time())
    swept_s = (await look.store.run(heartbeats.last_seen())).get("sweep")
    age_s = now_s - swept_s if swept_s else None
    seen = "there was no sweep yet" if age_s is None else f"last sweep {duration(age_s)} ago"
    if not beat_has_stopped(age_s, look.settings.sweep_interval_s):
        return [CheckResult(Level.OK, "beat", seen)]
    advice = (
        "Start beat: celery -A batchflow_workers beat. A worker on "
        f"{queue_name(look.settings.key_prefix, Queue.POLL)} carries its ticks out."
    )
    return [CheckResult(Level.PROBLEM, "beat", seen, advice)]


def _connect(app: Celery) -> tuple[str, float]:
    """The broker's kind, and how long connecting took, in seconds."""
    began = time.perf_counter()
    # What kombu's connections offer depends on the broker.
    connection: Any
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=_PATIENCE_S)
        return str(connection.transport.driver_name), time.perf_counter() - began


def _on_queue(settings: Settings, queue: Queue, names: list[str], strangers: int) -> CheckResult:
    name = queue_name(settings.key_prefix, queue)
    what = f"workers on {queue}"
    if names:
        return CheckResult(Level.OK, what, f"{len(names)}: {', '.join(sorted(names))}")
    if strangers:
        seen = f"{count(strangers, 'worker')} by Celery's account, and no sign of life in Redis"
        advice = "Give them the same BATCHFLOW_REDIS_URL and BATCHFLOW_KEY_PREFIX as this command."
        return CheckResult(Level.PROBLEM, what, seen, advice)
    advice = f"Start one: celery -A batchflow_workers worker -Q {name}"
    return CheckResult(Level.PROBLEM, what, "none", advice)


def _by_celery(settings: Settings) -> dict[str, int]:
    """How many workers take from each queue, if Celery can tell."""
    try:
        inspect = make_app(settings).control.inspect(timeout=_PING_S)
        answers = inspect.active_queues() or {}
    except (KombuError, OSError):
        return {}
    names = [[queue["name"] for queue in found] for found in answers.values()]
    return {
        queue: sum(queue_name(settings.key_prefix, queue) in found for found in names)
        for queue in Queue
    }
