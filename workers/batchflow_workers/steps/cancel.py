"""Cancel a job's batch at OpenAI."""

import logging

from batchflow.jobs import Job
from batchflow_workers.lease import Lease
from batchflow_workers.observation import Observation
from batchflow_workers.reconcile import reconcile
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps import submit

logger = logging.getLogger(__name__)

SOURCE = "cancel"


def cancel(runtime: Runtime, job: Job, held: Lease) -> None:
    """Ask OpenAI to cancel the batch. The job ends when OpenAI reports that the batch has."""
    if not job.cancel_requested:
        return
    if not job.batch_id:
        # A request whose reply was lost may have created it: the submit step searches for it, and
        # creates none.
        submit.submit(runtime, job, held)
        return
    batch = runtime.openai(job.spec.credential).cancel_batch(job.batch_id)
    logger.info("%s: asked OpenAI to cancel %s, which is %s", job.id, batch.id, batch.status)
    reconcile(runtime, [Observation(job, batch)], SOURCE)
