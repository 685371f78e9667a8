"""When the fleet is unhealthy: the thresholds of the status page, ``doctor`` and the alerts.

Ages are in seconds by Redis' clock. The limits in ``monitoring/alerts.yml`` are not below these, so
that the page and ``doctor`` agree with each alert.
"""

from collections.abc import Mapping
from typing import Final

from batchflow.queue import Queue

#: A worker without a heartbeat for this long is dead; it beats every ten seconds.
WORKER_SILENT_S: Final = 60.0
#: Beat has stopped if there was no sweep for this many sweep intervals, and for this long.
MISSED_SWEEPS: Final = 5
SWEEP_STOPPED_S: Final = 60.0
#: A job is overdue if it has been due for this many sweep intervals, and for this long.
OVERDUE_SWEEPS: Final = 10
OVERDUE_S: Final = 60.0
#: Polls have stopped if OpenAI answered none for this many poll intervals, and for this long. A
#: batch is polled at least once in 40 intervals.
MISSED_POLL_INTERVALS: Final = 50
POLLS_STOPPED_S: Final = 120.0
#: A message that has waited for this long in a queue is a sign of too few workers.
MESSAGE_WAITS_LONG_S: Final = 60.0
#: A pause of a credential reaches this length only after several failures in a row.
LONG_BACKOFF_S: Final = 20.0

#: Flyte asks about a task every few seconds or minutes. If it has not received the end of a job
#: after this time, it has stopped asking, or does not run.
UNCOLLECTED_S: Final = 600.0
#: What to do about it.
COLLECT_ADVICE: Final = (
    "Flyte stops asking after its maxSystemFailures. Set it as the README says, and restart "
    "FlytePropeller, which asks again."
)

#: What to do about live jobs whose record the workers can't read. One is already too many.
UNREADABLE_ADVICE: Final = (
    "Another version of Batchflow has written these records, or they are damaged. Run the version "
    "that wrote them on all workers. A job whose batch has expired meanwhile fails."
)


def worker_is_alive(seen_s: float, now_s: float) -> bool:
    """Whether a worker's last heartbeat is recent."""
    return now_s - seen_s < WORKER_SILENT_S


def beat_has_stopped(sweep_age_s: float | None, sweep_interval_s: float) -> bool:
    """Whether sweeps have stopped, which beat triggers and a worker runs. None means that there
    was no sweep yet."""
    limit_s = max(SWEEP_STOPPED_S, MISSED_SWEEPS * sweep_interval_s)
    return sweep_age_s is None or sweep_age_s > limit_s


def job_is_overdue(due_lag_s: float, sweep_interval_s: float) -> bool:
    """Whether a job has been due for too long."""
    return due_lag_s > max(OVERDUE_S, OVERDUE_SWEEPS * sweep_interval_s)


def polls_have_stopped(unpolled_s: float | None, poll_interval_s: float) -> bool:
    """Whether OpenAI has not answered a poll for too long. None means that no batch is running."""
    limit_s = max(POLLS_STOPPED_S, MISSED_POLL_INTERVALS * poll_interval_s)
    return unpolled_s is not None and unpolled_s > limit_s


def result_is_uncollected(ended_s: float | None, now_s: float) -> bool:
    """Whether Flyte should have received the end of a job. None means that it is not awaited."""
    return ended_s is not None and now_s - ended_s >= UNCOLLECTED_S


def queues_without_worker(workers: Mapping[str, int]) -> list[Queue]:
    """The queues that no live worker takes messages from, given the number of workers by queue."""
    return [queue for queue in Queue if not workers.get(queue)]
