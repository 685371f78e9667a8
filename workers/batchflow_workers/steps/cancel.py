"""Cancel a batch at OpenAI, if it got that far."""

import logging

from batchflow.jobs import Job
from batchflow_workers.quota import record
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps import submit

logger = logging.getLogger(__name__)

SOURCE = "cancel"


def cancel(runtime: Runtime, job: Job) -> None:
    """Tell OpenAI. The job ends when OpenAI says that the batch has, with what was done by then."""
    if not job.cancel_requested:
        return
    if not job.batch_id:
        # Perhaps a request whose reply was lost has made it: the submit step looks, and makes none.
        submit.submit(runtime, job)
        return
    batch = runtime.openai(job.spec.credential).cancel_batch(job.batch_id)
    logger.info("%s: asked OpenAI to cancel %s, which is %s", job.id, batch.id, batch.status)
    record(runtime, [(job, batch)], SOURCE)
