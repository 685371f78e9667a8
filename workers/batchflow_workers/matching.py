"""Which batches and files at OpenAI are a job's.

A batch names a job in its metadata, an uploaded file in its name. That is not enough: another
organization, or another installation, may use the same names.
"""

import math

from openai.types import Batch, FileObject

from batchflow.jobs import BatchSpec, Credential, Job, UploadSpec, first_id, is_job_id
from batchflow.openai_client.parsing import job_of
from batchflow.states import JobState, Stage
from batchflow_workers.observation import state_for

DEFAULT_ENDPOINT = "/v1/chat/completions"
_FILE_SUFFIX = ".jsonl"


def file_name(job_id: str) -> str:
    """The name of the file that a job uploads."""
    return job_id + _FILE_SUFFIX


def named_job(item: Batch | FileObject) -> str | None:
    """The id of the job that a batch or a file names."""
    if isinstance(item, Batch):
        name = job_of(item)
    else:
        stem = item.filename.removesuffix(_FILE_SUFFIX)
        name = stem if stem != item.filename else None
    return name if isinstance(name, str) and is_job_id(name) else None


def matches(job: Job, item: Batch | FileObject, credential: Credential) -> bool:
    """Whether a batch or a file is that of a job, or of another generation of it.

    ``credential`` is the one with which OpenAI showed it. A server that leaves out a batch's input
    file or endpoint is believed.
    """
    spec, name = job.spec, named_job(item)
    if spec.credential != credential or name is None or first_id(name) != first_id(job.id):
        return False
    if isinstance(item, Batch):
        return (
            isinstance(spec, BatchSpec)
            and getattr(item, "input_file_id", None) in (None, spec.input_file_id)
            and _path(getattr(item, "endpoint", None)) in (None, _path(endpoint_of(spec)))
        )
    return isinstance(spec, UploadSpec)


def endpoint_of(spec: BatchSpec) -> str:
    """The endpoint of a job's batch."""
    return str(spec.config.get("endpoint") or DEFAULT_ENDPOINT)


def is_searching(job: Job) -> bool:
    """Whether a job may have something at OpenAI already and does not know it yet."""
    known = job.input_file_id if isinstance(job.spec, UploadSpec) else job.batch_id
    return not job.terminal and job.tries > 0 and not known


def ended_badly(job: Job, batch: Batch) -> bool:
    """Whether a batch has ended, or is ending, without the result that the job needs."""
    state = state_for(job, batch)
    return batch.status == "cancelling" or (state.terminal and state is not JobState.SUCCEEDED)


def is_own(job: Job, batch: Batch) -> bool:
    """Whether a batch belongs to this record of a job, and not to an earlier attempt.

    The record has tried to create it, or was rebuilt after Redis had lost the one that had.
    """
    if named_job(batch) != job.id:
        return False
    if job.state is JobState.RUNNING and job.stage is Stage.IN_PROGRESS and not job.batch_id:
        return True
    tried = job.tried_at is not None and job.tried_at >= job.created_at
    # OpenAI's times are whole seconds.
    return tried and batch.created_at >= math.floor((job.tried_at or job.created_at).timestamp())


def is_second(job: Job, item: Batch | FileObject, credential: Credential) -> bool:
    """Whether a batch or a file of a job is not the one that it uses.

    A job that is live and has none yet may still take it.
    """
    if named_job(item) != job.id or not matches(job, item, credential):
        return False
    used = job.input_file_id if isinstance(job.spec, UploadSpec) else job.batch_id
    return used != item.id and (bool(used) or job.terminal)


def _path(endpoint: str | None) -> str | None:
    """An endpoint without what some servers add to it or leave out."""
    return endpoint and endpoint.removeprefix("/v1").rstrip("/")
