"""Ask OpenAI about many batches of one credential at once, as cheaply as it can be done."""

import logging
from collections.abc import Iterator

from openai.types import Batch

from batchflow.errors import (
    CredentialMissing,
    CredentialRefused,
    OpenAIRefused,
    OpenAIUnavailable,
    StoreUnavailable,
)
from batchflow.jobs import Credential, Job
from batchflow.openai_api import OpenAIApi, job_of
from batchflow.states import JobState, Stage
from batchflow.store import commands, telemetry
from batchflow_workers.capacity import record
from batchflow_workers.leases import lease
from batchflow_workers.runtime import Runtime
from batchflow_workers.step import back_off, backed_off, end, waiting_for_openai

logger = logging.getLogger(__name__)

SOURCE = "poll"

#: A page of the list is worth asking for while it answers for at least so many due jobs.
_WORTH_A_PAGE = 2
#: OpenAI may not know a batch for a moment after it has made it.
_UNKNOWN_GRACE_S = 600
#: Jobs whose poll was taken by another worker are due again after this.
_BUSY_S = 1.0


def poll(runtime: Runtime, ids: list[str]) -> None:
    """Observe these jobs' batches. They share a credential; one poll at a time asks with it."""
    try:
        jobs = [
            job
            for job in runtime.store.run_all([commands.get(job_id) for job_id in ids])
            if job and not job.terminal and job.batch_id
        ]
        if not jobs:
            return
        credential = jobs[0].spec.credential
        with lease(runtime.store, f"poll:{credential}", runtime.settings.lease_s) as ours:
            if not ours:
                _put_off(runtime, jobs, _BUSY_S)
            elif waits := backed_off(runtime, credential):
                _put_off(runtime, jobs, waits.seconds_left, waits.message)
            else:
                _ask(runtime, credential, jobs)
    except StoreUnavailable as error:
        logger.warning("No poll: %s", error)


def _ask(runtime: Runtime, credential: Credential, jobs: list[Job]) -> None:
    due = {str(job.batch_id): job for job in jobs}
    try:
        api = runtime.openai(credential)
        for batches in _listed(api, due):
            _write(runtime, due, batches)
        for batch_id, job in list(due.items()):
            if batch := _retrieved(runtime, api, job, batch_id):
                _write(runtime, due, [batch])
            due.pop(batch_id, None)
        runtime.store.run(commands.clear_backoff(str(credential)))
        runtime.store.run(telemetry.note("poll"))
    except (CredentialMissing, CredentialRefused, OpenAIUnavailable) as error:
        # An outage changes nothing but the message and checked_at.
        delay_s = back_off(runtime, credential, error)
        _put_off(runtime, list(due.values()), delay_s, waiting_for_openai(error))


def _listed(api: OpenAIApi, due: dict[str, Job]) -> Iterator[list[Batch]]:
    """Pages of the list, newest first, as long as a page answers for enough of what is due."""
    if len(due) < _WORTH_A_PAGE:
        return
    oldest = min(job.created_at for job in due.values()).timestamp()
    for page in api.batch_pages():
        answered = sum(batch.id in due for batch in page)
        yield page
        if answered < _WORTH_A_PAGE or len(due) < _WORTH_A_PAGE:
            return
        if page[-1].created_at < oldest - _UNKNOWN_GRACE_S:
            return


def _write(runtime: Runtime, due: dict[str, Job], batches: list[Batch]) -> None:
    """Write what was seen: of the jobs that are due, and of those a page showed for free."""
    jobs = {batch.id: due.pop(batch.id) for batch in batches if batch.id in due}
    others = [(batch, job_of(batch)) for batch in batches if batch.id not in jobs]
    known = [(batch, job_id) for batch, job_id in others if job_id]
    found = runtime.store.run_all([commands.get(job_id) for _, job_id in known])
    for (batch, _), job in zip(known, found, strict=True):
        if job and not job.terminal and job.batch_id == batch.id:
            jobs[batch.id] = job
    record(runtime, [(jobs[batch.id], batch) for batch in batches if batch.id in jobs], SOURCE)


def _retrieved(runtime: Runtime, api: OpenAIApi, job: Job, batch_id: str) -> Batch | None:
    try:
        return api.retrieve_batch(batch_id)
    except OpenAIRefused as error:
        now_s = runtime.store.run(commands.time())
        if now_s - job.created_at.timestamp() < _UNKNOWN_GRACE_S:
            _put_off(runtime, [job], runtime.settings.poll_interval_s)
        else:
            message = f"OpenAI no longer knows the batch {batch_id}. {error}"
            end(runtime, job.id, SOURCE, JobState.FAILED, message)
        return None


def _put_off(runtime: Runtime, jobs: list[Job], delay_s: float, message: str | None = None) -> None:
    fields = {} if message is None else {"message": message}
    runtime.store.run_all(
        [
            commands.update(
                job.id,
                source=SOURCE,
                stage=Stage.NONE if message is not None else None,
                due_in_s=delay_s,
                fields=fields,
            )
            for job in jobs
        ]
    )
