"""The container form of the transfer tasks: the pod hands the job to the queue and waits for it.

It runs where a platform does not route the task types to the connector. What it needs beyond
flytekit is in the ``task`` extra, so that is imported when it runs and not when a workflow is
declared.
"""

from typing import TYPE_CHECKING, Any

import flytekit
from flytekit import FlyteContextManager
from flytekit.core.shim_task import ShimTaskExecutor
from flytekit.exceptions.user import (
    FlyteRecoverableException,
    FlyteUserException,
    FlyteUserRuntimeException,
)
from flytekit.models.task import TaskTemplate
from flytekit.types.file import JSONLFile

from batchflow.flyte1.results import BatchResult

if TYPE_CHECKING:
    from batchflow.jobs import Job, Spec

_ASK_EVERY_S = 2.0


class UploadJSONLFileExecutor(ShimTaskExecutor):  # type: ignore[misc]  # flytekit is untyped
    """Has a worker upload the file; returns OpenAI's file id."""

    def execute_from_model(self, tt: TaskTemplate, **kwargs: Any) -> str:
        from batchflow.job_requests.build import upload_spec

        file = kwargs["jsonl_in"]
        job = _run(upload_spec(tt.custom, str(file.remote_source or file.path)))
        return str((job.result or {})["file_id"])


class DownloadJSONFilesExecutor(ShimTaskExecutor):  # type: ignore[misc]  # as above
    """Has a worker fetch the files; returns where they are."""

    def execute_from_model(self, tt: TaskTemplate, **kwargs: Any) -> BatchResult:
        from batchflow.job_requests.build import download_spec

        access = FlyteContextManager.current_context().file_access
        destination = access.get_random_remote_directory()
        job = _run(download_spec(tt.custom, kwargs["batch_endpoint_result"], destination))
        files = {
            name: JSONLFile(path=uri) if uri else None for name, uri in (job.result or {}).items()
        }
        return BatchResult(**files)


def _run(spec: "Spec") -> "Job":
    """Give the order, and wait for its end."""
    from batchflow.job_requests.build import make_job_request
    from batchflow.job_requests.enqueue import place, wait
    from batchflow.queue import Sender, make_app
    from batchflow.settings import load_settings
    from batchflow.states import JobState
    from batchflow.store import connect

    settings = load_settings()
    context = flytekit.current_context()
    execution, prefix = context.execution_id, (context.output_metadata_prefix or "").rstrip("/")
    attempt = prefix.rpartition("/")[2]
    job_request = make_job_request(
        spec,
        execution=f"{execution.project}/{execution.domain}/{execution.name}" if execution else "",
        output_prefix=prefix,
        attempt=int(attempt) if attempt.isdecimal() else 0,
    )
    store = connect(settings)
    job = wait(store, place(store, Sender(make_app(settings)), job_request), every_s=_ASK_EVERY_S)
    match job.state:
        case JobState.SUCCEEDED:
            return job
        case JobState.RETRYABLE:
            raise FlyteUserRuntimeException(FlyteRecoverableException(job.message))
        case _:
            # Wrapped as flytekit wraps what a user's function raises: it is not to be retried.
            raise FlyteUserRuntimeException(FlyteUserException(job.message))
