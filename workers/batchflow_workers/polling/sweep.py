"""Find the jobs that need attention, and send them to whoever attends to them."""

import logging
import math
import time
from collections import defaultdict

from batchflow.errors import StoreUnavailable
from batchflow.jobs import Job
from batchflow.queue import STEP_OF, QueueUnavailable, Step
from batchflow.states import JobKind
from batchflow.store import heartbeats, index, metrics, records
from batchflow_workers.lease import lease
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: Jobs taken at once, and named by one poll message at most.
CLAIM = 1_000
#: What was taken is due again after a lease's time if nobody attends to it; with thousands of a
#: credential, so much later for each of them: their poll comes to the last ones late.
_HOLD_PER_JOB_S = 0.01
#: A job whose step was sent is looked at again after this share of its age, within limits: often
#: enough for a lost message, seldom enough for a long queue.
_NUDGE_AGE_SHARE = 0.5
_NUDGE_MAX_S = 600.0
#: Ended jobs forgotten in one sweep, at most.
_PURGE = 500


def sweep(runtime: Runtime) -> None:
    """Take all that is due. One sweep at a time: a second one ends at once."""
    try:
        with lease(runtime.store, "sweep", runtime.settings.lease_s) as ours:
            if not ours:
                return
            began = time.monotonic()
            now_s = runtime.store.run(records.time())
            to_poll: defaultdict[str, list[str]] = defaultdict(list)
            claim = records.claim_due(CLAIM, hold_s=runtime.settings.lease_s)
            while ids := runtime.store.run(claim):
                _attend(runtime, ids, now_s, to_poll)
                if len(ids) < CLAIM:
                    break
            for credential, due in to_poll.items():
                _send_poll(runtime, credential, due)
            _purge(runtime)
            runtime.count(
                heartbeats.record_event("sweep"),
                *metrics.observation("sweep", time.monotonic() - began),
            )
    except StoreUnavailable as error:
        logger.warning("No sweep: %s", error)
    except QueueUnavailable as error:
        # What was taken is due again when its hold ends.
        logger.warning("The sweep stopped half-way: %s", error)


def _attend(
    runtime: Runtime, ids: list[str], now_s: float, to_poll: defaultdict[str, list[str]]
) -> None:
    for job_id, job in zip(ids, runtime.store.run_all([records.get(i) for i in ids]), strict=True):
        if job is None or job.terminal:
            runtime.store.run(records.purge(job_id, retention_s=runtime.settings.retention_s))
        elif job.cancel_requested and job.openai_status != "cancelling":
            _nudge(runtime, job, Step.CANCEL, now_s)
        elif job.kind is JobKind.BATCH and job.batch_id:
            to_poll[str(job.spec.credential)].append(job_id)
        else:
            _nudge(runtime, job, STEP_OF[job.kind], now_s)


def _send_poll(runtime: Runtime, credential: str, due: list[str]) -> None:
    """One message for a credential, however many of its batches are due: pages of the list show
    those between the ones that it names, and what they don't show is due again after its hold."""
    logger.debug("Polling %d batches of %s", len(due), credential)
    if len(due) > CLAIM:
        _hold_longer(runtime, due)
    # What was observed while this sweep went on may have become due again, and been taken.
    due_since_s = runtime.store.run(records.time())
    runtime.sender.send(Step.POLL, due[:: math.ceil(len(due) / CLAIM)], due_since_s)


def _hold_longer(runtime: Runtime, due: list[str]) -> None:
    hold_s = runtime.settings.lease_s + len(due) * _HOLD_PER_JOB_S
    for first in range(0, len(due), CLAIM):
        some = due[first : first + CLAIM]
        runtime.store.run_all([records.update(i, source="sweep", due_in_s=hold_s) for i in some])


def _nudge(runtime: Runtime, job: Job, step: Step, now_s: float) -> None:
    age_s = now_s - job.created_at.timestamp()
    wait_s = min(max(runtime.settings.lease_s, age_s * _NUDGE_AGE_SHARE), _NUDGE_MAX_S)
    runtime.update(job.id, "sweep", due_in_s=wait_s)
    runtime.sender.send(step, job.id)


def _purge(runtime: Runtime) -> None:
    retention_s = runtime.settings.retention_s
    before = runtime.store.run(records.time()) - retention_s
    kept = 0
    while old := runtime.store.run(index.unchanged_since(before, _PURGE, offset=kept)):
        # Any number of live jobs may be older than those that have ended.
        live = runtime.store.run(records.live(old))
        ended = [job_id for job_id, lives in zip(old, live, strict=True) if not lives]
        gone = runtime.store.run_all([records.purge(i, retention_s=retention_s) for i in ended])
        if any(gone):
            return
        kept += len(old)
