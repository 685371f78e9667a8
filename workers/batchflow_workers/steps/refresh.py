"""Look at one batch now: a webhook says that it has ended."""

import logging

from batchflow.jobs import Job
from batchflow.store import deliveries
from batchflow_workers.quota import record
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

SOURCE = "webhook"


def refresh(runtime: Runtime, job: Job) -> None:
    """Write what OpenAI shows of the job's batch.

    The event itself is not believed: it may be late, repeated or out of order.
    """
    if not job.batch_id:
        return
    batch = runtime.openai(job.spec.credential).retrieve_batch(job.batch_id)
    logger.info("%s: a webhook came, %s is %s", job.id, batch.id, batch.status)
    record(runtime, [(job, batch)], SOURCE)
    runtime.store.run(deliveries.mark_webhooks_active(str(job.spec.credential)))
