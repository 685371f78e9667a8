"""Create a job's batch at OpenAI, at most once."""

import logging
from collections.abc import Sequence
from typing import Any

from openai.types import Batch

from batchflow.jobs import BatchSpec, Credential, Job
from batchflow.openai_client.batch_metadata import JOB_KEY, MAX_PAIRS
from batchflow.states import JobState
from batchflow.store import records
from batchflow_workers.at_most_once import (
    begin,
    counted_try,
    until_recorded,
    until_searchable_s,
)
from batchflow_workers.duplicates import cancel_second_batches
from batchflow_workers.lease import Lease
from batchflow_workers.matching import (
    DEFAULT_ENDPOINT,
    ended_badly,
    is_own,
    is_searching,
    matches,
    named_job,
)
from batchflow_workers.observation import Observation, is_over_quota
from batchflow_workers.quota import has_to_wait, with_model
from batchflow_workers.reconcile import reconcile
from batchflow_workers.runtime import Runtime
from batchflow_workers.search import Candidates, Listing, Taken, search

logger = logging.getLogger(__name__)

SOURCE = "submit"

_DEFAULTS = {"completion_window": "24h", "endpoint": DEFAULT_ENDPOINT}
#: Accepted in ``config`` because the old plugin's documentation passes it; OpenAI's call has no
#: such parameter.
_NOT_SENT = frozenset({"model"})


def submit(runtime: Runtime, job: Job, held: Lease) -> None:
    """Create the batch, or find the one that an earlier try created."""
    spec = job.spec
    if not isinstance(spec, BatchSpec) or job.batch_id:
        return
    api = runtime.openai(spec.credential)
    if job.tries:
        if wait_s := until_searchable_s(runtime, job):
            runtime.postpone(job.id, SOURCE, wait_s, _BATCHES.message)
            return
        answer = search(runtime, api, job, _BATCHES)
        if answer.fallback_id:
            _reconcile(runtime, job, api.retrieve_batch(answer.fallback_id))
            return
        if not answer.complete:
            return
    job = with_model(runtime, job, SOURCE)
    if not job.cancel_requested and has_to_wait(runtime, job, SOURCE):
        return
    this_try = begin(runtime, job, SOURCE, _BATCHES.message)
    if this_try.begun is records.Begun.CANCELLED:
        runtime.end(job.id, SOURCE, JobState.CANCELLED, job.message or "Cancelled.")
        return
    if this_try.begun is not records.Begun.BEGUN:
        return
    parameters = _parameters(job.id, spec.config)
    with counted_try(runtime, job, this_try):
        held.require()
        batch = api.create_batch(input_file_id=spec.input_file_id, config=parameters)
    logger.info("%s: created %s", job.id, batch.id)
    until_recorded(job, lambda: _reconcile(runtime, job, batch))


def _take(
    runtime: Runtime, credential: Credential, page: list[Batch], candidates: Candidates
) -> Taken[Batch]:
    """Record the batches on a page that are those of jobs that search for theirs.

    A completed batch is better than a live one, and that than one that ended badly. OpenAI refused
    a batch over the token limit: that one counts for nothing.
    """
    jobs = candidates.of(name for batch in page if (name := named_job(batch)))
    found: dict[str, Observation] = {}
    fallbacks: dict[str, str] = {}
    unused = []
    oldest_first = list(reversed(page))
    for batch in sorted(oldest_first, key=lambda batch: batch.status != "completed"):
        name = named_job(batch)
        if name is None or is_over_quota(batch):
            continue
        takers = [
            job
            for job in jobs[name]
            if is_searching(job) and job.id not in found and matches(job, batch, credential)
        ]
        good = [job for job in takers if not ended_badly(job, batch)]
        if good:
            logger.info("%s: found %s, which an earlier try created", good[0].id, batch.id)
            found[good[0].id] = Observation(good[0], batch, new=True)
            continue
        fallbacks |= {job.id: batch.id for job in takers if is_own(job, batch)}
        if any(job.id == name and job.batch_id != batch.id for job in jobs[name]):
            unused.append(batch)
    observations = sorted(found.values(), key=lambda found: found.job.created_at)
    updates = reconcile(runtime, observations, SOURCE)
    for observation, updated in zip(observations, updates, strict=True):
        _cancel_if_requested(runtime, observation.job, updated)
        if updated.outcome is not records.UpdateOutcome.APPLIED:
            unused.append(observation.batch)
    for job_id in found:
        fallbacks.pop(job_id, None)
    return Taken(found.keys(), fallbacks, unused)


def _dispose(runtime: Runtime, credential: Credential, batches: Sequence[Batch]) -> None:
    cancel_second_batches(runtime, credential, batches, SOURCE)


#: The list in which a search finds batches.
_BATCHES = Listing(
    "batches",
    SOURCE,
    "Checking whether OpenAI already has this batch",
    lambda api, not_before, after: api.batch_pages(not_before=not_before, after=after),
    _take,
    _dispose,
)


def _reconcile(runtime: Runtime, job: Job, batch: Batch) -> None:
    [updated] = reconcile(runtime, [Observation(job, batch, new=True)], SOURCE)
    _cancel_if_requested(runtime, job, updated)
    if updated.outcome is not records.UpdateOutcome.APPLIED:
        # Another worker has found or created one meanwhile.
        cancel_second_batches(runtime, job.spec.credential, [batch], SOURCE)


def _cancel_if_requested(runtime: Runtime, job: Job, updated: records.Updated) -> None:
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
