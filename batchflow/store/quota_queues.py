"""Commands on the quota queues, in which jobs wait for OpenAI's limit of enqueued tokens.

A queue is named ``<credential>|<model>``. It holds job ids in the order in which the jobs were
created.
"""

from typing import NamedTuple

from batchflow.states import LIVE, STAGE_OF_STATUS, JobState, Stage, WaitingFor
from batchflow.store import keys
from batchflow.store.command import Command
from batchflow.store.records import NO_BATCH, Updated, job_keys

_LIVE = ",".join(sorted(LIVE))
_ADMITTED = ",".join(
    status for status, stage in STAGE_OF_STATUS.items() if stage >= Stage.IN_PROGRESS
)


class Advanced(NamedTuple):
    """The result of :func:`advance` and :func:`first`."""

    #: If false, the command has to be repeated with ``first``.
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
    refused_batch = (waited_too_long, longest_wait_s, openai_status, model, "1")
    return _requeue(queue, job_id, source, of_batch, retry_in_s, message, *refused_batch)


def join(
    queue: str, job_id: str, *, source: str, message: str, retry_in_s: float
) -> Command[Updated]:
    """Let a job wait that has no batch, if there are jobs to wait behind.

    Otherwise the outcome is FIRST, and only the job's place in the queue is recorded.
    """
    no_batch = ("", "", "", "", "0")
    return _requeue(queue, job_id, source, NO_BATCH, retry_in_s, message, *no_batch)


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


def _requeue(
    queue: str,
    job_id: str,
    source: str,
    of_batch: str,
    retry_in_s: float,
    message: str,
    *batch: str | float,
) -> Command[Updated]:
    """``batch`` is what requeue.lua takes about the batch."""
    job = (job_id, _LIVE, keys.MAX_EVENTS, source, of_batch)
    wait = (queue, retry_in_s, message, JobState.CANCELLED, JobState.FAILED)
    return Command(
        "requeue",
        [*job_keys(job_id), keys.waiting(queue), keys.LINES],
        [*job, *wait, *batch, WaitingFor.QUOTA],
        Updated.parse,
    )


def _advance(
    queue: str, job_id: str, first: str, *, regardless: bool, make_due: bool
) -> Command[Advanced]:
    return Command(
        "advance",
        [keys.waiting(queue), keys.LINES, keys.DUE, keys.job(first)],
        [job_id, int(regardless), first, _LIVE, _ADMITTED, queue, int(make_due)],
        lambda raw: Advanced(bool(raw[0]), raw[1] or None),
    )
