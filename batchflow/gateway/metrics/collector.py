"""All metrics of the fleet; docs/metrics.md describes them.

The values of labels are constants, or names of credentials and models; no label names a job.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from prometheus_client import Metric
from prometheus_client.registry import Collector

from batchflow.gateway.metrics.families import SECONDS, Labels, counted, counter, gauge, histogram
from batchflow.gateway.webhook_receiver import DeliveryResult
from batchflow.openai_client.calls import NO_KEY, CallOutcome, Operation
from batchflow.overview.snapshot import FleetSnapshot
from batchflow.queue import Queue
from batchflow.queue.lengths import QueueLength
from batchflow.states import TRANSITIONS, JobKind, JobState

#: The ``from`` label of a new job.
_NEW = "new"


class FleetCollector(Collector):
    """All metrics of a moment. ``fleet`` is None if Redis is unavailable, ``queue_lengths`` if the
    broker is; the metrics that need them are then missing."""

    def __init__(
        self, fleet: FleetSnapshot | None, queue_lengths: Mapping[Queue, QueueLength] | None
    ) -> None:
        self._fleet = fleet
        self._queue_lengths = queue_lengths

    def collect(self) -> Iterable[Metric]:
        """Yield all metric families."""
        redis, broker = self._fleet is not None, self._queue_lengths is not None
        yield gauge("redis_up", "Whether the gateway reaches Redis.", {(): redis})
        yield gauge("broker_up", "Whether the gateway reaches Celery's broker.", {(): broker})
        if self._fleet:
            yield from _of_jobs(self._fleet)
            yield from _of_waiting(self._fleet)
            yield from _of_workers(self._fleet)
            yield from _of_calls(self._fleet)
            yield from _of_webhooks(self._fleet)
        if self._queue_lengths is not None:
            yield from _of_queues(self._queue_lengths)


def _of_jobs(fleet: FleetSnapshot) -> Iterator[Metric]:
    yield gauge(
        "jobs",
        "Jobs that Redis holds: the live ones, and those that ended within the retention time.",
        {key: fleet.jobs.get(key, 0) for key in product(JobKind, JobState)},
        ("kind", "state"),
    )
    changes = [(_NEW, JobState.QUEUED), (_NEW, JobState.RUNNING)]
    changes += [(a, b) for a, following in TRANSITIONS.items() for b in sorted(following) if a != b]
    yield gauge(
        "uncollected_jobs",
        "Jobs that ended more than ten minutes ago and whose end Flyte has not received.",
        {(): fleet.uncollected},
    )
    yield gauge(
        "unreadable_records",
        "Live jobs whose record the workers' version can't read.",
        {(): fleet.unreadable},
    )
    transitions = counted(fleet.counters, "transitions", 3)
    yield counter(
        "job_transitions",
        "Jobs that went from one state to another.",
        {(kind, before or _NEW, after): n for (kind, before, after), n in transitions.items()},
        ("kind", "from", "to"),
        known=((kind, *change) for kind in JobKind for change in changes),
    )
    yield counter(
        "duplicate_batches",
        "Second batches of a job that were found at OpenAI and cancelled.",
        counted(fleet.counters, "duplicate_batches", 1),
        ("source",),
        known=[("submit",), ("poll",)],
    )
    yield counter(
        "unused_files",
        "Uploaded files that their jobs do not use and that were deleted at OpenAI.",
        counted(fleet.counters, "unused_files", 1),
        ("source",),
        known=[("upload",)],
    )
    yield counter(
        "tokens",
        "Tokens that OpenAI counted in batches that have ended.",
        counted(fleet.counters, "tokens", 1),
        ("direction",),
        known=[("input",), ("output",)],
    )


def _of_waiting(fleet: FleetSnapshot) -> Iterator[Metric]:
    yield gauge(
        "oldest_live_job_age",
        "Time since the oldest live job was created; absent for a kind without live jobs.",
        {(kind,): fleet.age_s(float(entry.time)) for kind, entry in fleet.oldest_live.items()},
        ("kind",),
        unit=SECONDS,
    )
    yield gauge(
        "due_lag",
        "How long the most overdue live job has been due.",
        {(): fleet.due_lag_s},
        unit=SECONDS,
    )
    yield counter(
        "due_times_restored",
        "Live jobs that had lost their due time, and that the hourly check made due.",
        counted(fleet.counters, "due_times_restored", 0),
        (),
        known=[()],
    )
    yield gauge(
        "jobs_waiting_for_capacity",
        "Jobs that wait for OpenAI's limit of enqueued tokens; absent where none waits.",
        {tuple(name.rsplit("|", 1)): n for name, n in fleet.quota_queues.items() if n},
        ("credential", "model"),
    )
    yield gauge(
        "credential_backoff",
        "How long calls with a credential are still paused after failures; absent if they are not.",
        {(name,): pause.seconds_left for name, pause in fleet.backoffs.items()},
        ("credential",),
        unit=SECONDS,
    )


def _of_workers(fleet: FleetSnapshot) -> Iterator[Metric]:
    for what, text in (
        ("poll", "Time since OpenAI last answered a poll; absent before the first one."),
        ("sweep", "Time since the last sweep, which beat triggers; absent before the first one."),
        ("webhook", "Time since the last valid webhook arrived; absent before the first one."),
    ):
        seen_s = fleet.last_seen_s.get(what)
        ages_s: dict[Labels, float] = {} if seen_s is None else {(): fleet.age_s(seen_s)}
        yield gauge(f"{what}_age", text, ages_s, unit=SECONDS)
    yield histogram(
        "sweep_duration", "The duration of sweeps.", "sweep", fleet.counters, known=[()]
    )
    yield gauge(
        "workers",
        "Workers that take messages from a queue, with a heartbeat in the last minute.",
        {(queue,): fleet.workers.get(queue, 0) for queue in Queue},
        ("queue",),
    )


def _of_calls(fleet: FleetSnapshot) -> Iterator[Metric]:
    yield counter(
        "openai_calls",
        "Calls to OpenAI.",
        counted(fleet.counters, "openai_calls", 2),
        ("operation", "outcome"),
        known=product(Operation, CallOutcome),
    )
    yield histogram(
        "openai_call_duration",
        "The duration of calls to OpenAI, including transfers of files.",
        "openai_call",
        fleet.counters,
        ("operation",),
        known=[(operation,) for operation in Operation],
    )
    outcomes = (CallOutcome.RATE_LIMITED, CallOutcome.UNAUTHORIZED, CallOutcome.UNAVAILABLE)
    reasons: list[Labels] = [(reason,) for reason in (*outcomes, NO_KEY)]
    yield counter(
        "openai_waits",
        "Pauses of credentials after failures.",
        counted(fleet.counters, "openai_waits", 1),
        ("reason",),
        known=reasons,
    )
    yield counter(
        "openai_wait",
        "The total length of the pauses of credentials after failures.",
        counted(fleet.counters, "openai_wait_seconds", 1),
        ("reason",),
        known=reasons,
        unit=SECONDS,
    )


def _of_webhooks(fleet: FleetSnapshot) -> Iterator[Metric]:
    yield counter(
        "webhook_deliveries",
        "Webhooks that were received, valid or not.",
        counted(fleet.counters, "webhook_deliveries", 1),
        ("result",),
        known=[(result,) for result in DeliveryResult],
    )
    yield histogram(
        "completion_lag",
        "Time from a batch's end at OpenAI, which has whole seconds, to its observation.",
        "knowing",
        fleet.counters,
        ("source",),
    )


def _of_queues(queue_lengths: Mapping[Queue, QueueLength]) -> Iterator[Metric]:
    yield gauge(
        "queue_messages",
        "Messages in a queue that no worker has taken.",
        {(queue,): length.messages for queue, length in queue_lengths.items()},
        ("queue",),
    )
    yield gauge(
        "queue_oldest_message_age",
        "The age of the oldest message; absent if the queue is empty, or the broker is not Redis.",
        {(queue,): n.oldest_s for queue, n in queue_lengths.items() if n.oldest_s is not None},
        ("queue",),
        unit=SECONDS,
    )
