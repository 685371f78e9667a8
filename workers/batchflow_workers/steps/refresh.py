"""Observe one batch at once, because a webhook reports its end."""

import logging

from batchflow.jobs import Job
from batchflow.store import deliveries
from batchflow_workers.lease import Lease
from batchflow_workers.observation import Observation
from batchflow_workers.reconcile import reconcile
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

SOURCE = "webhook"


def refresh(runtime: Runtime, job: Job, _: Lease) -> None:
    """Retrieve the job's batch and write what OpenAI reports.

    The webhook's own content is not used: it may be late, repeated or out of order.
    """
    if not job.batch_id:
        return
    batch = runtime.openai(job.spec.credential).retrieve_batch(job.batch_id)
    logger.info("%s: received a webhook; %s is %s", job.id, batch.id, batch.status)
    reconcile(runtime, [Observation(job, batch)], SOURCE)
    runtime.store.run(deliveries.mark_webhooks_active(str(job.spec.credential)))
