"""The container form of the transfer tasks, and its images.

A platform that does not route the task types to the connector runs it: the pod enqueues a job and
waits for its end. It needs the packages of the ``task`` extra. Declaring a workflow must not need
them, so functions import them.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import flytekit
from flytekit import FlyteContextManager
from flytekit.configuration.default_images import DefaultImages, PythonVersion
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

_IMAGE = "flyte-batchflow-task"
_POLL_INTERVAL_S = 2.0


class OpenAIFileDefaultImages(DefaultImages):  # type: ignore[misc]  # flytekit is untyped
    """Default images of the transfer tasks: the Dockerfile's ``task`` target."""

    _DEFAULT_IMAGE_PREFIXES: ClassVar[dict[PythonVersion, str]] = {
        PythonVersion.PYTHON_3_11: f"{_IMAGE}:py3.11-",
        PythonVersion.PYTHON_3_12: f"{_IMAGE}:py3.12-",
    }

    @classmethod
    def get_version_suffix(cls) -> str:
        """The version of Batchflow in the image."""
        return version("flyte-batchflow")


class UploadJSONLFileExecutor(ShimTaskExecutor):  # type: ignore[misc]  # as above
    """Has a worker upload the file, and returns OpenAI's file id."""

    def execute_from_model(self, tt: TaskTemplate, **kwargs: Any) -> str:
        from batchflow.job_requests.specs import upload_spec

        file = kwargs["jsonl_in"]
        job = _run(upload_spec(tt.custom, str(file.remote_source or file.path)))
        return str((job.result or {})["file_id"])


class DownloadJSONFilesExecutor(ShimTaskExecutor):  # type: ignore[misc]  # as above
    """Has a worker download the files, and returns their URIs."""

    def execute_from_model(self, tt: TaskTemplate, **kwargs: Any) -> BatchResult:
        from batchflow.job_requests.specs import download_spec

        access = FlyteContextManager.current_context().file_access
        destination = access.get_random_remote_directory()
        job = _run(download_spec(tt.custom, kwargs["batch_endpoint_result"], destination))
        files = {
            name: JSONLFile(path=uri) if uri else None for name, uri in (job.result or {}).items()
        }
        return BatchResult(**files)


def _run(spec: "Spec") -> "Job":
    """Run a job to its end; raises an error that Flyte retries or not."""
    from batchflow.job_requests.enqueue import enqueue, wait_until_terminal
    from batchflow.job_requests.identity import make_job_request
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
    job_request = enqueue(store, Sender(make_app(settings)), job_request)
    job = wait_until_terminal(store, job_request, interval_s=_POLL_INTERVAL_S)
    match job.state:
        case JobState.SUCCEEDED:
            return job
        case JobState.RETRYABLE:
            raise FlyteUserRuntimeException(FlyteRecoverableException(job.message))
        case _:
            # Wrapped as flytekit wraps a user's exception, so that Flyte does not retry.
            raise FlyteUserRuntimeException(FlyteUserException(job.message))
