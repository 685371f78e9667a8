"""Observe many batches of one credential with as few calls to OpenAI as possible."""

import logging
import math
from datetime import datetime
from functools import partial

from openai.types import Batch

from batchflow.errors import (
    CredentialMissing,
    CredentialRefused,
    OpenAIRefused,
    OpenAIUnavailable,
    StoreUnavailable,
)
from batchflow.jobs import Credential, Job
from batchflow.openai_client.client import OpenAIApi
from batchflow.openai_client.parsing import job_of
from batchflow.queue import QueueUnavailable, Step
from batchflow.states import JobState, Stage
from batchflow.store import heartbeats, records
from batchflow.store.backoff import Backoff
from batchflow_workers.backoff import back_off, clear_backoff, current_backoff
from batchflow_workers.duplicates import cancel_second_batches
from batchflow_workers.lease import lease
from batchflow_workers.observation import Observation
from batchflow_workers.polling.scan import Cursor, Scan
from batchflow_workers.reconcile import reconcile
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

SOURCE = "poll"

_START = Cursor()


def poll(
    runtime: Runtime, ids: list[str], due_since_s: float = math.inf, cursor: Cursor = _START
) -> None:
    """Observe the batches of these jobs, which share a credential. One poll at a time uses it.

    A batch that was observed after ``due_since_s``, epoch seconds, is no longer due: the message is
    late or repeated, or another poll's page showed it. A long poll enqueues another one for the
    jobs that are left, with the cursor to continue from.
    """
    remaining: list[str] = []
    try:
        jobs = [
            job
            for job in runtime.store.run_all([records.get(job_id) for job_id in ids])
            if job and not job.terminal and job.batch_id
            if not job.checked_at or job.checked_at.timestamp() < due_since_s
        ]
        if not jobs:
            return
        credential = jobs[0].spec.credential
        with lease(runtime.store, f"poll:{credential}", runtime.settings.lease_s) as held:
            if held is None:
                policy = runtime.policy
                per_job_s = len(jobs) * policy.busy_credential_per_job_s
                _postpone(runtime, jobs, max(policy.busy_credential_s, per_job_s))
            elif pause := current_backoff(runtime, credential):
                _postpone(runtime, jobs, pause.seconds_left, pause)
            else:
                remaining, cursor = _scan(runtime, credential, jobs, cursor)
        if remaining:
            runtime.sender.send(Step.POLL, remaining, due_since_s, *cursor)
    except StoreUnavailable as error:
        logger.warning("No poll: %s", error)
    except QueueUnavailable as error:
        # The remaining jobs are due again when their hold ends.
        logger.warning("The poll was interrupted: %s", error)


def _scan(
    runtime: Runtime, credential: Credential, jobs: list[Job], cursor: Cursor
) -> tuple[list[str], Cursor]:
    """Returns the jobs that remain if the scan takes long, and the cursor to continue from."""
    due = {str(job.batch_id): job for job in sorted(jobs, key=_list_order, reverse=True)}
    try:
        api = runtime.openai(credential)
        scan = Scan(api, due, partial(_retrieve, runtime, api), cursor, runtime.policy)
        for batches in scan:
            _reconcile(runtime, credential, due, batches, scan)
        clear_backoff(runtime, credential)
        runtime.store.run(heartbeats.record_event("poll"))
    except (CredentialMissing, CredentialRefused, OpenAIUnavailable) as error:
        # An outage changes only the message and `checked_at`.
        pause = back_off(runtime, credential, error)
        _postpone(runtime, list(due.values()), pause.seconds_left, pause)
        return [], cursor
    return [job.id for job in due.values()], scan.cursor


def _list_order(job: Job) -> datetime:
    """Orders jobs as OpenAI's list orders their batches: by creation, which may be long after the
    job's, and which is always the same time before they expire."""
    return job.expires_at or job.created_at


def _reconcile(
    runtime: Runtime, credential: Credential, due: dict[str, Job], batches: list[Batch], scan: Scan
) -> None:
    """Reconcile the batches of a page: those that are due, and others of live jobs. Cancel those
    that their jobs do not use."""
    job_ids = {
        batch.id: due.pop(batch.id).id if batch.id in due else job_of(batch) for batch in batches
    }
    live = _live_jobs(runtime, [job_id for job_id in job_ids.values() if job_id])
    jobs = {job.batch_id: job for job in live}
    observed = [Observation(jobs[batch.id], batch) for batch in batches if batch.id in jobs]
    reconcile(runtime, observed, SOURCE, calls=scan.total_calls)
    others = [batch for batch in batches if batch.id not in jobs]
    cancel_second_batches(runtime, credential, others, SOURCE)


def _live_jobs(runtime: Runtime, ids: list[str]) -> list[Job]:
    """The live jobs among these as they are now, since a scan may be long. Most jobs on a page may
    have ended long ago, so the records of others are not read."""
    are_live = runtime.store.run(records.live(ids)) if ids else []
    live = [job_id for job_id, is_live in zip(ids, are_live, strict=True) if is_live]
    found = runtime.store.run_all([records.get(job_id) for job_id in live])
    return [job for job in found if job and not job.terminal]


def _retrieve(runtime: Runtime, api: OpenAIApi, batch_id: str, job: Job) -> Batch | None:
    try:
        return api.retrieve_batch(batch_id)
    except OpenAIRefused as error:
        created_at = max(job.created_at, job.tried_at or job.created_at)
        now_s = runtime.store.run(records.time())
        if now_s - created_at.timestamp() < runtime.policy.unknown_batch_grace_s:
            _postpone(runtime, [job], runtime.settings.poll_interval_s)
        else:
            message = f"OpenAI no longer has the batch {batch_id}. {error}"
            runtime.end(job.id, SOURCE, JobState.FAILED, message)
        return None


def _postpone(
    runtime: Runtime, jobs: list[Job], delay_s: float, pause: Backoff | None = None
) -> None:
    fields = {"message": pause.message, "waiting_for": pause.waiting_for} if pause else {}
    runtime.store.run_all(
        [
            records.update(
                job.id,
                source=SOURCE,
                stage=Stage.NONE if pause else None,
                due_in_s=delay_s,
                fields=fields,
            )
            for job in jobs
        ]
    )
