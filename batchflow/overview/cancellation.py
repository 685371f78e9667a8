"""Cancellation of a job, as the API, the status page and the command line request it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from batchflow.errors import JobNotFound
from batchflow.jobs import Job
from batchflow.overview.job_list import find_job
from batchflow.queue import QueueUnavailable, Step
from batchflow.store import AsyncJobStore, records
from batchflow.store.records import CancelResult


@dataclass(frozen=True)
class Cancellation:
    """A cancellation that was requested."""

    result: CancelResult
    #: Celery's broker was unavailable; the sweep finds the request in the record.
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
    """Cancel the job that an id names, see :func:`find_job`; its users read ``message``.

    Raises InvalidInput, JobNotFound or StoreUnavailable. An unavailable broker is not an error.
    """
    job = await find_job(store, text)
    result = await store.run(records.cancel(job.id, message=message, source=source))
    if result is None:
        raise JobNotFound(f"Job {job.id} no longer exists.")
    delayed = False
    if result is CancelResult.REQUESTED:
        try:
            await send(Step.CANCEL, job.id)
        except QueueUnavailable:
            delayed = True
    now = await store.run(records.get(job.id))
    return Cancellation(result, delayed, now or job)
