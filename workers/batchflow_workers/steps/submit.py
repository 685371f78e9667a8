"""Create a job's batch at OpenAI, at most once."""

import logging
from typing import Any

from openai.types import Batch

from batchflow.jobs import BatchSpec, Job
from batchflow.openai_client.batch_metadata import JOB_KEY, MAX_PAIRS
from batchflow.openai_client.client import OpenAIApi
from batchflow.openai_client.parsing import job_of
from batchflow.states import JobState
from batchflow.store import records
from batchflow_workers.at_most_once import counted_try, search_not_before, until_searchable_s
from batchflow_workers.observation import Observation, is_over_quota
from batchflow_workers.quota import has_to_wait, with_model
from batchflow_workers.reconcile import reconcile
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

SOURCE = "submit"

_DEFAULTS = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
#: Accepted in ``config`` because the old plugin's documentation passes it; OpenAI's call has no
#: such parameter.
_NOT_SENT = frozenset({"model"})


def submit(runtime: Runtime, job: Job) -> None:
    """Create the batch, or find the one that an earlier try created."""
    spec = job.spec
    if not isinstance(spec, BatchSpec) or job.batch_id:
        return
    api = runtime.openai(spec.credential)
    if job.tries:
        if wait_s := until_searchable_s(runtime, job):
            runtime.postpone(
                job.id, SOURCE, wait_s, "Checking whether OpenAI already has this batch"
            )
            return
        if batch := _find(runtime, api, job):
            logger.info("%s: found %s, which an earlier try created", job.id, batch.id)
            _reconcile(runtime, job, batch)
            return
    job = with_model(runtime, job, SOURCE)
    if not job.cancel_requested and has_to_wait(runtime, job, SOURCE):
        return
    begun, _ = runtime.store.run(records.begin(job.id, tries=job.tries))
    if begun is records.Begun.CANCELLED:
        runtime.end(job.id, SOURCE, JobState.CANCELLED, job.message or "Cancelled.")
        return
    if begun is not records.Begun.BEGUN:
        return
    with counted_try(runtime, job, SOURCE):
        batch = api.create_batch(
            input_file_id=spec.input_file_id, config=_parameters(job.id, spec.config)
        )
    logger.info("%s: created %s", job.id, batch.id)
    _reconcile(runtime, job, batch)


def _find(runtime: Runtime, api: OpenAIApi, job: Job) -> Batch | None:
    """The batch that an earlier try created, unless OpenAI refused it for the token limit.

    Batches of other jobs on the same pages are adopted on the way: after Redis was emptied, one
    search finds them all.
    """
    for page in api.batch_pages(not_before=search_not_before(job)):
        by_job = {job_id: batch for batch in reversed(page) if (job_id := job_of(batch))}
        own = by_job.pop(job.id, None)
        _adopt(runtime, by_job)
        if own:
            return None if is_over_quota(own) else own
    return None


def _adopt(runtime: Runtime, by_job: dict[str, Batch]) -> None:
    """Record the batches of jobs that still have to search for theirs."""
    if not by_job:
        return
    jobs = runtime.store.run_all([records.get(job_id) for job_id in by_job])
    found = [
        Observation(job, by_job[job.id], new=True)
        for job in jobs
        if job and not job.terminal and job.tries and not job.batch_id
        if not is_over_quota(by_job[job.id])
    ]
    reconcile(runtime, found, SOURCE)


def _reconcile(runtime: Runtime, job: Job, batch: Batch) -> None:
    [updated] = reconcile(runtime, [Observation(job, batch, new=True)], SOURCE)
    if updated.cancel_requested:
        # The cancellation was requested while the batch was being created.
        runtime.update(job.id, SOURCE, due_in_s=0)


def _parameters(job_id: str, config: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the call: the user's config, our defaults, and the job id as metadata."""
    parameters = {
        **_DEFAULTS,
        **{
            name: value
            for name, value in config.items()
            if value is not None and name not in _NOT_SENT
        },
    }
    if expiry := parameters.get("output_expires_after"):
        # The config travels as a protobuf Struct, which has no integers.
        parameters["output_expires_after"] = {**expiry, "seconds": int(expiry["seconds"])}
    metadata = dict(parameters.get("metadata") or {})
    if len(metadata) >= MAX_PAIRS:
        # The job's record and the task's result have all 16.
        del metadata[max(metadata)]
    parameters["metadata"] = {**metadata, JOB_KEY: job_id}
    return parameters
