"""Ask OpenAI about many batches of one credential at once, as cheaply as it can be done."""

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
from batchflow.openai_client.api import OpenAIApi, job_of
from batchflow.queue import QueueUnavailable, Step
from batchflow.states import JobState, Stage
from batchflow.store import backoff, heartbeats, records
from batchflow_workers.lease import lease
from batchflow_workers.polling.scan import Mark, Scan
from batchflow_workers.quota import record
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps.runner import back_off, backed_off, end, waiting_for_openai

logger = logging.getLogger(__name__)

SOURCE = "poll"

#: OpenAI may not know a batch for a moment after it has made it.
_UNKNOWN_GRACE_S = 600
#: While another poll asks with their credential, jobs are put off for this; for longer if they
#: are many, so that putting them off is never the workers' main occupation.
_BUSY_S = 1.0
_BUSY_PER_JOB_S = 0.01
_TOP = Mark()


def poll(
    runtime: Runtime, ids: list[str], due_since_s: float = math.inf, begin: Mark = _TOP
) -> None:
    """Observe these jobs' batches. They share a credential; one poll at a time asks with it.

    What was observed after ``due_since_s`` (epoch seconds) is no longer due: the message is late,
    or repeated, or another poll's pages have shown it. A long poll sends what is left to the end of
    the queue, and where it is to ``begin``.
    """
    left: list[str] = []
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
        with lease(runtime.store, f"poll:{credential}", runtime.settings.lease_s) as ours:
            if not ours:
                _put_off(runtime, jobs, max(_BUSY_S, len(jobs) * _BUSY_PER_JOB_S))
            elif waits := backed_off(runtime, credential):
                _put_off(runtime, jobs, waits.seconds_left, waits.message)
            else:
                left, begin = _ask(runtime, credential, jobs, begin)
        if left:
            runtime.sender.send(Step.POLL, left, due_since_s, *begin)
    except StoreUnavailable as error:
        logger.warning("No poll: %s", error)
    except QueueUnavailable as error:
        # What is left is due again when its hold ends.
        logger.warning("The poll stopped half-way: %s", error)


def _ask(
    runtime: Runtime, credential: Credential, jobs: list[Job], begin: Mark
) -> tuple[list[str], Mark]:
    """Returns what is left if it takes long, and where to go on with it."""
    due = {str(job.batch_id): job for job in sorted(jobs, key=_place, reverse=True)}
    try:
        api = runtime.openai(credential)
        walk = Scan(api, due, partial(_retrieved, runtime, api), begin)
        for batches in walk:
            _write(runtime, due, batches, walk)
        runtime.store.run(backoff.clear(str(credential)))
        runtime.store.run(heartbeats.record_event("poll"))
    except (CredentialMissing, CredentialRefused, OpenAIUnavailable) as error:
        # An outage changes nothing but the message and checked_at.
        delay_s = back_off(runtime, credential, error)
        _put_off(runtime, list(due.values()), delay_s, waiting_for_openai(error))
        return [], begin
    return [job.id for job in due.values()], walk.mark


def _place(job: Job) -> datetime:
    """Orders jobs as their batches are in OpenAI's list: by when those were made, which may be long
    after the job was, and always as long before they expire."""
    return job.expires_at or job.created_at


def _write(runtime: Runtime, due: dict[str, Job], batches: list[Batch], walk: Scan) -> None:
    """Write what was seen: of the jobs that are due, and of those a page showed for free."""
    made_by = {
        batch.id: due.pop(batch.id).id if batch.id in due else job_of(batch) for batch in batches
    }
    live = _live(runtime, [job_id for job_id in made_by.values() if job_id])
    jobs = {job.batch_id: job for job in live}
    seen = [(jobs[batch.id], batch) for batch in batches if batch.id in jobs]
    record(runtime, seen, SOURCE, calls=walk.calls)


def _live(runtime: Runtime, ids: list[str]) -> list[Job]:
    """Those jobs that are live, as they are now: the walk may be a long one. Most that a page shows
    may have ended long ago."""
    lives = runtime.store.run(records.live(ids)) if ids else []
    live = [job_id for job_id, is_live in zip(ids, lives, strict=True) if is_live]
    found = runtime.store.run_all([records.get(job_id) for job_id in live])
    return [job for job in found if job and not job.terminal]


def _retrieved(runtime: Runtime, api: OpenAIApi, batch_id: str, job: Job) -> Batch | None:
    try:
        return api.retrieve_batch(batch_id)
    except OpenAIRefused as error:
        made_at = max(job.created_at, job.tried_at or job.created_at)
        now_s = runtime.store.run(records.time())
        if now_s - made_at.timestamp() < _UNKNOWN_GRACE_S:
            _put_off(runtime, [job], runtime.settings.poll_interval_s)
        else:
            message = f"OpenAI no longer knows the batch {batch_id}. {error}"
            end(runtime, job.id, SOURCE, JobState.FAILED, message)
        return None


def _put_off(runtime: Runtime, jobs: list[Job], delay_s: float, message: str | None = None) -> None:
    fields = {} if message is None else {"message": message}
    runtime.store.run_all(
        [
            records.update(
                job.id,
                source=SOURCE,
                stage=Stage.NONE if message is not None else None,
                due_in_s=delay_s,
                fields=fields,
            )
            for job in jobs
        ]
    )
