"""What ``/metrics`` tells of the fleet. docs/metrics.md lists it for operators.

The values of labels come from tables of this package, and from the names of credentials and models;
none names a job.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from prometheus_client import Metric
from prometheus_client.registry import Collector

from batchflow.gateway.metering.fleet import Fleet
from batchflow.gateway.metering.series import SECONDS, Labels, counted, counter, gauge, histogram
from batchflow.gateway.webhook_receiver import Result
from batchflow.openai_client.calls import NO_KEY, CallOutcome, Operation
from batchflow.queue import Queue
from batchflow.queue.lengths import QueueLength
from batchflow.states import TRANSITIONS, JobKind, JobState

#: The ``from`` of a job that was not there before.
_NEW = "new"


class Families(Collector):
    """All metrics of a moment. Without the fleet Redis is away, without the backlogs the broker;
    then what only they know is left out."""

    def __init__(
        self, fleet: Fleet | None, queue_lengths: Mapping[Queue, QueueLength] | None
    ) -> None:
        self._fleet = fleet
        self._backlogs = queue_lengths

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        redis, broker = self._fleet is not None, self._backlogs is not None
        yield gauge("redis_up", "Whether the gateway reaches Redis.", {(): redis})
        yield gauge("broker_up", "Whether the gateway reaches Celery's broker.", {(): broker})
        if self._fleet:
            yield from _of_jobs(self._fleet)
            yield from _of_waiting(self._fleet)
            yield from _of_workers(self._fleet)
            yield from _of_calls(self._fleet)
            yield from _of_webhooks(self._fleet)
        if self._backlogs is not None:
            yield from _of_queues(self._backlogs)


def _of_jobs(fleet: Fleet) -> Iterator[Metric]:
    yield gauge(
        "jobs",
        "Jobs that Redis holds: the live ones, and those that ended within the retention time.",
        {key: fleet.jobs.get(key, 0) for key in product(JobKind, JobState)},
        ("kind", "state"),
    )
    changes = [(_NEW, JobState.QUEUED), (_NEW, JobState.RUNNING)]
    changes += [(a, b) for a, following in TRANSITIONS.items() for b in sorted(following) if a != b]
    transitions = counted(fleet.counters, "transitions", 3)
    yield counter(
        "job_transitions",
        "Jobs that went from one state to another.",
        {(kind, before or _NEW, after): n for (kind, before, after), n in transitions.items()},
        ("kind", "from", "to"),
        known=((kind, *change) for kind in JobKind for change in changes),
    )
    yield counter(
        "tokens",
        "Tokens that OpenAI counted in batches that have ended.",
        counted(fleet.counters, "tokens", 1),
        ("direction",),
        known=[("input",), ("output",)],
    )


def _of_waiting(fleet: Fleet) -> Iterator[Metric]:
    yield gauge(
        "oldest_live_job_age",
        "Time since the oldest live job was made; nothing for a kind without live jobs.",
        {(kind,): age_s for kind, age_s in fleet.oldest_s.items()},
        ("kind",),
        unit=SECONDS,
    )
    yield gauge(
        "due_lag",
        "How long the most overdue live job has been due.",
        {(): fleet.due_lag_s},
        unit=SECONDS,
    )
    yield gauge(
        "jobs_waiting_for_capacity",
        "Jobs that wait for OpenAI's limit of enqueued tokens; nothing where none waits.",
        {_credential_and_model(line): length for line, length in fleet.lines.items() if length},
        ("credential", "model"),
    )
    yield gauge(
        "credential_backoff",
        "For how long nobody asks OpenAI with a credential, after failures; nothing if it is used.",
        {(name,): left_s for name, left_s in fleet.backoffs_s.items()},
        ("credential",),
        unit=SECONDS,
    )


def _of_workers(fleet: Fleet) -> Iterator[Metric]:
    for what, text in (
        ("poll", "Time since OpenAI last answered a poll; nothing before the first."),
        ("sweep", "Time since the last sweep, which beat starts; nothing before the first."),
        ("webhook", "Time since the last genuine webhook came; nothing before the first."),
    ):
        ages_s: dict[Labels, float] = {(): fleet.ages_s[what]} if what in fleet.ages_s else {}
        yield gauge(f"{what}_age", text, ages_s, unit=SECONDS)
    yield histogram("sweep_duration", "How long a sweep took.", "sweep", fleet.counters, known=[()])
    yield gauge(
        "workers",
        "Workers that take messages from a queue and were heard of in the last minute.",
        {(queue,): fleet.workers.get(queue, 0) for queue in Queue},
        ("queue",),
    )


def _of_calls(fleet: Fleet) -> Iterator[Metric]:
    yield counter(
        "openai_calls",
        "Requests to OpenAI.",
        counted(fleet.counters, "openai_calls", 2),
        ("operation", "outcome"),
        known=product(Operation, CallOutcome),
    )
    yield histogram(
        "openai_call_duration",
        "How long a request to OpenAI took, the transfer of a file included.",
        "openai_call",
        fleet.counters,
        ("operation",),
        known=[(operation,) for operation in Operation],
    )
    reasons: list[Labels] = [
        (CallOutcome.RATE_LIMITED,),
        (CallOutcome.UNAUTHORIZED,),
        (CallOutcome.UNAVAILABLE,),
        (NO_KEY,),
    ]
    yield counter(
        "openai_waits",
        "Times that a failure made a credential wait.",
        counted(fleet.counters, "openai_waits", 1),
        ("reason",),
        known=reasons,
    )
    yield counter(
        "openai_wait",
        "For how long failures made credentials wait, all together.",
        counted(fleet.counters, "openai_wait_seconds", 1),
        ("reason",),
        known=reasons,
        unit=SECONDS,
    )


def _of_webhooks(fleet: Fleet) -> Iterator[Metric]:
    yield counter(
        "webhook_deliveries",
        "Webhooks that came from OpenAI, or pretended to.",
        counted(fleet.counters, "webhook_deliveries", 1),
        ("result",),
        known=[(result,) for result in Result],
    )
    yield histogram(
        "completion_lag",
        "Time from a batch's end at OpenAI, which it tells in whole seconds, to our knowing it.",
        "knowing",
        fleet.counters,
        ("source",),
    )


def _of_queues(queue_lengths: Mapping[Queue, QueueLength]) -> Iterator[Metric]:
    yield gauge(
        "queue_messages",
        "Messages in a queue that no worker has taken.",
        {(queue,): backlog.messages for queue, backlog in queue_lengths.items()},
        ("queue",),
    )
    yield gauge(
        "queue_oldest_message_age",
        "How long the oldest message has waited; nothing if the queue is empty, or the broker is "
        "not Redis.",
        {
            (q,): backlog.oldest_s
            for q, backlog in queue_lengths.items()
            if backlog.oldest_s is not None
        },
        ("queue",),
        unit=SECONDS,
    )


def _credential_and_model(line: str) -> Labels:
    credential, _, model = line.rpartition("|")
    return credential, model
