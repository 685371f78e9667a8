"""Job requests for tests."""

from typing import Any

from batchflow.jobs import (
    BatchSpec,
    Credential,
    DownloadSpec,
    JobRequest,
    Spec,
    UploadSpec,
    random_job_id,
)
from batchflow.states import JobKind


def a_job_request(kind: JobKind = JobKind.BATCH, **fields: Any) -> JobRequest:
    """A job request of a kind, with defaults for the rest."""
    specs: dict[JobKind, Spec] = {
        JobKind.UPLOAD: UploadSpec(credential=Credential(), uri="/in.jsonl"),
        JobKind.BATCH: BatchSpec(credential=Credential(), input_file_id="file-1", config={}),
        JobKind.DOWNLOAD: DownloadSpec(credential=Credential(), destination="/out"),
    }
    return JobRequest(**{"job_id": random_job_id(), "spec": specs[kind]} | fields)
