"""Find the jobs that are due, and enqueue the steps that they need."""

import logging
import math
import time
from collections import defaultdict

from batchflow.errors import StoreUnavailable
from batchflow.jobs import Job
from batchflow.queue import STEP_OF, QueueUnavailable, Step
from batchflow.states import JobKind
from batchflow.store import heartbeats, index, metrics, records
from batchflow.store.records import Unreadable
from batchflow_workers.lease import lease
from batchflow_workers.polling.due_check import check_due_times
from batchflow_workers.polling.unreadable import isolate, read_records, release_readable
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

SOURCE = "sweep"


def sweep(runtime: Runtime) -> None:
    """Claim all jobs that are due. Only one sweep runs at a time; another one returns at once."""
    try:
        with lease(runtime.store, "sweep", runtime.settings.lease_s) as held:
            if held is None:
                return
            runtime.store.run(records.check_server())
            began = time.monotonic()
            now_s = runtime.store.run(records.time())
            to_poll: defaultdict[str, list[str]] = defaultdict(list)
            limit = runtime.policy.claimed_jobs
            claim = records.claim_due(limit, hold_s=runtime.settings.lease_s)
            while ids := runtime.store.run(claim):
                _enqueue_steps(runtime, ids, now_s, to_poll)
                if len(ids) < limit:
                    break
            for credential, due in to_poll.items():
                _enqueue_poll(runtime, credential, due)
            _purge(runtime)
            check_due_times(runtime, now_s)
            release_readable(runtime, SOURCE)
            runtime.count(
                heartbeats.record_event("sweep"),
                *metrics.observation("sweep", time.monotonic() - began),
            )
    except StoreUnavailable as error:
        logger.warning("No sweep: %s", error)
    except QueueUnavailable as error:
        # The claimed jobs are due again when their hold ends.
        logger.warning("The sweep was interrupted: %s", error)


def _enqueue_steps(
    runtime: Runtime, ids: list[str], now_s: float, to_poll: defaultdict[str, list[str]]
) -> None:
    """Enqueue the step of each job; those whose batch is to be polled are added to ``to_poll``."""
    for job_id, found in zip(ids, read_records(runtime, ids), strict=True):
        try:
            if isinstance(found, Unreadable):
                isolate(runtime, SOURCE, job_id, found)
            elif found is None or found.terminal:
                runtime.store.run(records.purge(job_id, retention_s=runtime.settings.retention_s))
            else:
                _enqueue_step(runtime, found, now_s, to_poll)
        except (StoreUnavailable, QueueUnavailable):
            raise
        except Exception:
            # One odd record must not stop the others. The job is due again when its hold ends.
            logger.exception("%s: the sweep failed for this job", job_id)


def _enqueue_step(
    runtime: Runtime, job: Job, now_s: float, to_poll: defaultdict[str, list[str]]
) -> None:
    if job.delete_at and (result := runtime.store.run(records.cancel_deleted(job.id))):
        if result is records.CancelResult.REQUESTED:
            _enqueue(runtime, job, Step.CANCEL, now_s)
    elif job.cancel_requested and job.openai_status != "cancelling":
        _enqueue(runtime, job, Step.CANCEL, now_s)
    elif job.kind is JobKind.BATCH and job.batch_id:
        to_poll[str(job.spec.credential)].append(job.id)
    else:
        _enqueue(runtime, job, STEP_OF[job.kind], now_s)


def _enqueue(runtime: Runtime, job: Job, step: Step, now_s: float) -> None:
    """Enqueue a step, and make the job due again soon enough for a lost message, but not so often
    that messages pile up in a long queue."""
    policy = runtime.policy
    age_s = now_s - job.created_at.timestamp()
    again_s = max(runtime.settings.lease_s, age_s * policy.enqueued_again_age_share)
    again_s = min(again_s, policy.longest_until_enqueued_again_s)
    runtime.update(job.id, SOURCE, due_in_s=again_s)
    runtime.sender.send(step, job.id)


def _enqueue_poll(runtime: Runtime, credential: str, due: list[str]) -> None:
    """Enqueue one poll of a credential, however many of its batches are due.

    The message names at most ``claimed_jobs`` of them. Pages of the list show those between; what
    they do not show is due again after its hold.
    """
    logger.debug("Polling %d batches of %s", len(due), credential)
    limit = runtime.policy.claimed_jobs
    if len(due) > limit:
        _hold_longer(runtime, due)
    # What was observed during this sweep may have become due again, and been claimed.
    due_since_s = runtime.store.run(records.time())
    runtime.sender.send(Step.POLL, due[:: math.ceil(len(due) / limit)], due_since_s)


def _hold_longer(runtime: Runtime, due: list[str]) -> None:
    hold_s = runtime.settings.lease_s + len(due) * runtime.policy.hold_per_job_s
    limit = runtime.policy.claimed_jobs
    for first in range(0, len(due), limit):
        part = due[first : first + limit]
        runtime.store.run_all([records.update(i, source=SOURCE, due_in_s=hold_s) for i in part])


def _purge(runtime: Runtime) -> None:
    """Delete records whose retention time is over."""
    retention_s = runtime.settings.retention_s
    before_s = runtime.store.run(records.time()) - retention_s
    kept = 0
    while old := runtime.store.run(
        index.unchanged_since(before_s, runtime.policy.purged_jobs, offset=kept)
    ):
        # Any number of live jobs may be older than those that have ended.
        live = runtime.store.run(records.live(old))
        ended = [job_id for job_id, is_live in zip(old, live, strict=True) if not is_live]
        purged = runtime.store.run_all([records.purge(i, retention_s=retention_s) for i in ended])
        if any(purged):
            return
        kept += len(old)
