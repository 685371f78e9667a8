"""Make a job's batch at OpenAI, exactly once."""

import logging
from typing import Any

from openai.types import Batch

from batchflow.jobs import BatchSpec, Job
from batchflow.openai_client.api import OpenAIApi, job_of
from batchflow.openai_client.metadata import JOB_KEY, MAX_PAIRS
from batchflow.states import JobState
from batchflow.store import records
from batchflow_workers.at_most_once import earliest, sending, still_settling
from batchflow_workers.quota import has_to_wait, out_of_tokens, record, with_model
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps.runner import end, postpone

logger = logging.getLogger(__name__)

SOURCE = "submit"

_DEFAULTS = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
#: Accepted in ``config`` because the old plugin's documentation passes it; OpenAI's call has no
#: such parameter.
_NOT_SENT = frozenset({"model"})


def submit(runtime: Runtime, job: Job) -> None:
    """Create the batch, or find the one that an earlier try made."""
    spec = job.spec
    if not isinstance(spec, BatchSpec) or job.batch_id:
        return
    api = runtime.openai(spec.credential)
    if job.tries:
        if wait_s := still_settling(runtime, job):
            postpone(
                runtime, job.id, SOURCE, wait_s, "Finding out whether OpenAI has this batch already"
            )
            return
        if batch := _find(runtime, api, job):
            logger.info("%s: an earlier try had made %s", job.id, batch.id)
            _record(runtime, job, batch)
            return
    job = with_model(runtime, job, SOURCE)
    if not job.cancel_requested and has_to_wait(runtime, job, SOURCE):
        return
    begun, _ = runtime.store.run(records.begin(job.id, tries=job.tries))
    if begun is records.Begun.CANCELLED:
        end(runtime, job.id, SOURCE, JobState.CANCELLED, job.message or "Cancelled.")
        return
    if begun is not records.Begun.BEGUN:
        return
    with sending(runtime, job, SOURCE):
        batch = api.create_batch(
            input_file_id=spec.input_file_id, config=_parameters(job.id, spec.config)
        )
    logger.info("%s: made %s", job.id, batch.id)
    _record(runtime, job, batch)


def _find(runtime: Runtime, api: OpenAIApi, job: Job) -> Batch | None:
    """The batch that an earlier try has made and that OpenAI did not turn away for its limit.

    What the pages show of other jobs that look for theirs is recorded on the way: after Redis was
    emptied one search finds them all.
    """
    for page in api.batch_pages(not_before=earliest(job)):
        made_by = {job_id: batch for batch in reversed(page) if (job_id := job_of(batch))}
        mine = made_by.pop(job.id, None)
        _adopt(runtime, made_by)
        if mine:
            return None if out_of_tokens(mine) else mine
    return None


def _adopt(runtime: Runtime, made_by: dict[str, Batch]) -> None:
    """Record batches whose jobs look for them."""
    if not made_by:
        return
    jobs = runtime.store.run_all([records.get(job_id) for job_id in made_by])
    found = [
        (job, made_by[job.id])
        for job in jobs
        if job and not job.terminal and job.tries and not job.batch_id
        if not out_of_tokens(made_by[job.id])
    ]
    if found:
        record(runtime, found, SOURCE, new=True)


def _record(runtime: Runtime, job: Job, batch: Batch) -> None:
    [updated] = record(runtime, [(job, batch)], SOURCE, new=True)
    if updated.cancel_requested:
        # The wish came while the request was out.
        runtime.update(job.id, SOURCE, due_in_s=0)


def _parameters(job_id: str, config: dict[str, Any]) -> dict[str, Any]:
    """What the call gets: the user's config, our defaults, and the job's id in the metadata."""
    parameters = {
        **_DEFAULTS,
        **{
            name: value
            for name, value in config.items()
            if value is not None and name not in _NOT_SENT
        },
    }
    if expiry := parameters.get("output_expires_after"):
        # A protobuf Struct, as which the config travels, knows no whole numbers.
        parameters["output_expires_after"] = {**expiry, "seconds": int(expiry["seconds"])}
    metadata = dict(parameters.get("metadata") or {})
    if len(metadata) >= MAX_PAIRS:
        # All 16 are in the job's record and in the task's result.
        del metadata[max(metadata)]
    parameters["metadata"] = {**metadata, JOB_KEY: job_id}
    return parameters
