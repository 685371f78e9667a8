"""Placing an order and waiting for the end, for a process that has nothing else to do."""

import logging
import time

from batchflow.errors import StoreUnavailable
from batchflow.job_requests.build import next_generation
from batchflow.jobs import Job, JobRequest
from batchflow.queue import LOST_MESSAGE_CHECK_S, STEP_OF, QueueUnavailable, Sender
from batchflow.store import JobStore, records

logger = logging.getLogger(__name__)


def place(store: JobStore, sender: Sender, job_request: JobRequest) -> JobRequest:
    """Record a job and tell the workers; returns the order that stands, see ``next_order``."""
    while True:
        created = store.run(records.create(job_request, due_in_s=LOST_MESSAGE_CHECK_S))
        following = next_generation(job_request, created)
        if following is None:
            break
        job_request = following
    if created.new:
        try:
            sender.send(STEP_OF[job_request.spec.kind], job_request.job_id)
        except QueueUnavailable as error:
            logger.warning("%s: the sweep will send it: %s", job_request.job_id, error)
    return job_request


def wait(store: JobStore, job_request: JobRequest, *, every_s: float) -> Job:
    """Watch a job until it ends. Redis may be away meanwhile, or forget the job."""
    while True:
        try:
            job = store.run(records.get(job_request.job_id))
            if job is None:
                store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
            elif job.terminal:
                return job
        except StoreUnavailable as error:
            logger.warning("%s: %s", job_request.job_id, error)
        time.sleep(every_s)
