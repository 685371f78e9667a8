"""The wish to cancel a job, as the API, the status page and the command line have it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from batchflow.errors import JobNotFound
from batchflow.jobs import Job
from batchflow.overview.job_list import find_job
from batchflow.queue import QueueUnavailable, Step
from batchflow.store import AsyncJobStore, records
from batchflow.store.records import Cancelled


class CancelOutcome(StrEnum):
    """What became of the wish."""

    #: The job ended at once.
    CANCELLED = "cancelled"
    #: A worker cancels it at OpenAI.
    REQUESTED = "requested"
    #: It had ended before.
    ENDED = "ended"


_OUTCOMES = {
    Cancelled.CANCELLED: CancelOutcome.CANCELLED,
    Cancelled.REQUESTED: CancelOutcome.REQUESTED,
    Cancelled.REFUSED: CancelOutcome.ENDED,
}


@dataclass(frozen=True)
class Cancellation:
    """The answer to :func:`cancel_job`."""

    outcome: CancelOutcome
    #: The workers could not be told; the sweep finds the wish in the record.
    delayed: bool
    #: The job as it is now.
    job: Job


async def cancel_job(
    store: AsyncJobStore,
    send: Callable[[Step, str], Awaitable[None]],
    text: str,
    *,
    message: str,
    source: str,
) -> Cancellation:
    """Cancel the job that an id names, see ``find_job``. ``message`` is what its users read.

    Raises InvalidInput, JobNotFound or StoreUnavailable. A broker that is away is no error.
    """
    job = await find_job(store, text)
    cancelled = await store.run(records.cancel(job.id, message=message, source=source))
    if cancelled is Cancelled.MISSING:
        raise JobNotFound(f"There is no job {job.id} any more.")
    delayed = False
    if cancelled is Cancelled.REQUESTED:
        try:
            await send(Step.CANCEL, job.id)
        except QueueUnavailable:
            delayed = True
    now = await store.run(records.get(job.id))
    return Cancellation(_OUTCOMES[cancelled], delayed, now or job)
