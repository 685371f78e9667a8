"""The quota queues, in which jobs wait for OpenAI's limit of enqueued tokens, as commands.

A queue is named ``<credential>|<model>``. It holds job ids in the order in which the jobs were
created.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from batchflow.states import LIVE, STAGE_OF_STATUS, JobState, Stage
from batchflow.store import keys
from batchflow.store.command import Command
from batchflow.store.records import NO_BATCH, Updated, job_keys

_LIVE = ",".join(sorted(LIVE))
_ADMITTED = ",".join(
    status for status, stage in STAGE_OF_STATUS.items() if stage >= Stage.IN_PROGRESS
)


class Joined(StrEnum):
    """The result of :func:`join`."""

    #: The job waits, or it ended because its cancellation was requested.
    APPLIED = "applied"
    #: No job to wait behind; only the job's place in the queue is recorded.
    FIRST = "first"
    #: The job has a batch by now; nothing changed.
    STALE = "stale"
    #: The job has ended; nothing changed.
    REFUSED = "refused"
    MISSING = "missing"


class Advanced(NamedTuple):
    """The result of :func:`advance` and :func:`first`."""

    #: If not, the command has to be repeated with ``first``.
    done: bool
    first: str | None


def requeue(
    queue: str,
    job_id: str,
    *,
    of_batch: str,
    openai_status: str,
    model: str,
    source: str,
    message: str,
    retry_in_s: float,
    longest_wait_s: float,
    waited_too_long: str,
) -> Command[Updated]:
    """Let a job wait whose batch was over the limit. The batch is forgotten.

    ``of_batch`` is as in ``records.update``. The job's position is added to ``message``. If the job
    has waited for ``longest_wait_s``, it fails with the message ``waited_too_long``; if its
    cancellation was requested, it ends as cancelled.
    """
    return Command(
        "requeue",
        _keys(queue, job_id),
        [
            *_requeue_args(queue, job_id, of_batch, source, message, retry_in_s),
            waited_too_long,
            longest_wait_s,
            openai_status,
            model,
            "1",
        ],
        Updated.parse,
        is_script=True,
    )


def join(
    queue: str, job_id: str, *, source: str, message: str, retry_in_s: float
) -> Command[Joined]:
    """Let a job wait that has no batch, if there are jobs to wait behind."""
    return Command(
        "requeue",
        _keys(queue, job_id),
        [
            *_requeue_args(queue, job_id, NO_BATCH, source, message, retry_in_s),
            "",
            "",
            "",
            "",
            "0",
        ],
        lambda raw: Joined(raw[0]),
        is_script=True,
    )


def advance(queue: str, job_id: str, batch_ended: bool, *, first: str = "") -> Command[Advanced]:
    """Take a job out of a queue, and make the first one that still waits due now.

    Nothing is made due if the job did not wait, unless its batch ended. ``first`` is what the
    command returned when it was not done.
    """
    return _advance(queue, job_id, first, regardless=batch_ended, make_due=True)


def first(queue: str, known_first: str = "") -> Command[Advanced]:
    """The first job that still waits; ``known_first`` is as in :func:`advance`."""
    return _advance(queue, "", known_first, regardless=True, make_due=False)


def names() -> Command[list[str]]:
    """The queues in which jobs wait."""
    return Command("SMEMBERS", [keys.LINES], [], sorted)


def length(queue: str) -> Command[int]:
    """How many jobs wait in a queue."""
    return Command("ZCARD", [keys.waiting(queue)], [], int)


def _keys(queue: str, job_id: str) -> list[str]:
    return [*job_keys(job_id), keys.waiting(queue), keys.LINES]


def _requeue_args(
    queue: str, job_id: str, of_batch: str, source: str, message: str, retry_in_s: float
) -> Sequence[str | float]:
    return [
        job_id,
        _LIVE,
        keys.MAX_EVENTS,
        source,
        of_batch,
        queue,
        retry_in_s,
        message,
        JobState.CANCELLED,
        JobState.FAILED,
    ]


def _advance(
    queue: str, job_id: str, first: str, *, regardless: bool, make_due: bool
) -> Command[Advanced]:
    return Command(
        "advance",
        [keys.waiting(queue), keys.LINES, keys.DUE, keys.job(first)],
        [job_id, int(regardless), first, _LIVE, _ADMITTED, queue, int(make_due)],
        lambda raw: Advanced(bool(raw[0]), raw[1] or None),
        is_script=True,
    )
