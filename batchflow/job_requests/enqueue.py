"""Create the job of a job request, and wait for its end."""

import logging
import time

from batchflow.errors import StoreUnavailable
from batchflow.job_requests.identity import next_generation
from batchflow.jobs import Job, JobRequest
from batchflow.queue import LOST_MESSAGE_CHECK_S, STEP_OF, QueueUnavailable, Sender
from batchflow.store import AsyncJobStore, JobStore, records

logger = logging.getLogger(__name__)


async def record_async(
    store: AsyncJobStore, job_request: JobRequest, *, due_in_s: float
) -> tuple[JobRequest, bool]:
    """Create a job's record, or find it; the sweep enqueues its step after ``due_in_s``.

    Returns the job request whose generation applies, and whether its job is new.
    """
    created = await store.run(records.create(job_request, due_in_s=due_in_s))
    while following := next_generation(job_request, created):
        job_request = following
        created = await store.run(records.create(job_request, due_in_s=due_in_s))
    return job_request, created.new


def enqueue(store: JobStore, sender: Sender, job_request: JobRequest) -> JobRequest:
    """Record a job and enqueue its first step; returns the job request whose generation applies."""
    created = store.run(records.create(job_request, due_in_s=LOST_MESSAGE_CHECK_S))
    while following := next_generation(job_request, created):
        job_request = following
        created = store.run(records.create(job_request, due_in_s=LOST_MESSAGE_CHECK_S))
    if created.new:
        try:
            sender.send(STEP_OF[job_request.spec.kind], job_request.job_id)
        except QueueUnavailable as error:
            logger.warning("%s: left to the sweep: %s", job_request.job_id, error)
    return job_request


def wait_until_terminal(store: JobStore, job_request: JobRequest, *, interval_s: float) -> Job:
    """Poll a job until it ends; survives an unavailable Redis, and rebuilds a lost record."""
    while True:
        try:
            job = store.run(records.get(job_request.job_id))
            if job is None:
                store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
            elif job.terminal:
                store.run(records.collect(job.id))
                return job
        except StoreUnavailable as error:
            logger.warning("%s: %s", job_request.job_id, error)
        time.sleep(interval_s)
