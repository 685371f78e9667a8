"""The connector's responses to Flyte: a job as a Resource."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson
from flyteidl.admin.agent_pb2 import Resource as ResourceMessage
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.extend.backend.base_connector import Resource
from flytekit.models.literals import LiteralMap
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from batchflow.jobs import JobStatus
from batchflow.links import batch_page, file_page, job_page
from batchflow.states import JobKind, JobState, Phase

#: Flyte polls a running task far more often than its job changes, so the encoded resources of the
#: jobs polled last are cached, about 1.5 KB each.
_CACHE_SIZE = 10_000

UNREACHABLE = "status store unreachable"
UNREADABLE = "This job's record was written by another version of Batchflow; update the connector"


class EncodedResource(Resource):  # type: ignore[misc]  # flytekit is untyped
    """A Resource backed by its protobuf message; a local execution reads its properties."""

    def __init__(self, message: ResourceMessage) -> None:
        self._message = message

    async def to_flyte_idl(self) -> ResourceMessage:
        return self._message

    @property
    def phase(self) -> TaskExecution.Phase:
        return self._message.phase

    @property
    def message(self) -> str:
        return str(self._message.message)

    @property
    def log_links(self) -> list[TaskLog]:
        return list(self._message.log_links)

    @property
    def outputs(self) -> LiteralMap | None:
        if not self._message.HasField("outputs"):
            return None
        return LiteralMap.from_flyte_idl(self._message.outputs)

    @property
    def custom_info(self) -> dict[str, Any]:
        return MessageToDict(self._message.custom_info)


def resource_of(
    job_id: str,
    job: JobStatus,
    outputs: Callable[[dict[str, Any]], LiteralMap],
    *,
    public_url: str | None = None,
) -> Resource:
    """A job's phase, message, details and links, and its outputs if it succeeded.

    ``outputs`` makes the outputs from the record's ``result``. ``public_url``
    is the gateway's URL, for the link to the job's page.
    """
    return EncodedResource(ResourceMessage.FromString(_encoded(job_id, job, outputs, public_url)))


@lru_cache(_CACHE_SIZE)
def _encoded(
    job_id: str,
    job: JobStatus,
    outputs: Callable[[dict[str, Any]], LiteralMap],
    public_url: str | None,
) -> bytes:
    message = _message(
        job.phase,
        job.message or _default_message(job),
        _details(job_id, job, public_url),
        log_links=_links(job_id, job, public_url),
        outputs=outputs(orjson.loads(job.result)).to_flyte_idl() if job.result else None,
    )
    return bytes(message.SerializeToString())


def refused_resource(reason: str) -> Resource:
    """A task that is not valid."""
    return EncodedResource(_message(Phase.FAILED, reason, {}))


def unknown_resource(
    job_id: str, message: str, *, phase: Phase = Phase.RUNNING, public_url: str | None = None
) -> Resource:
    """A job whose state is unknown."""
    page = job_page(public_url, job_id) if public_url else None
    details = {"job_id": job_id, "message": message} | ({"page": page} if page else {})
    links = [_link("Batchflow", page)] if page else []
    return EncodedResource(_message(phase, message, details, log_links=links))


def _message(
    phase: Phase, message: str | None, details: dict[str, Any], **fields: Any
) -> ResourceMessage:
    custom_info = Struct()
    custom_info.update(details)
    return ResourceMessage(
        phase=TaskExecution.Phase.Value(phase), message=message, custom_info=custom_info, **fields
    )


def _default_message(job: JobStatus) -> str | None:
    match job.state:
        case JobState.QUEUED:
            return "Waiting for a worker"
        case JobState.RUNNING if job.kind is JobKind.BATCH:
            status = job.openai_status or "running"
            # OpenAI counts the requests when it has validated them.
            return f"{status}: {job.completed + job.failed} of {job.total}" if job.total else status
        case JobState.SUCCEEDED:
            return None
        case _:
            return f"The job ended as {job.state}"


def _details(job_id: str, job: JobStatus, public_url: str | None) -> dict[str, Any]:
    """The task's custom info in Flyte's console, which shows no message while it is RUNNING."""
    details: dict[str, Any] = {
        "job_id": job_id,
        "page": job_page(public_url, job_id) if public_url else None,
        "state": job.state,
        "message": job.message,
        "model": job.model,
        "openai_status": job.openai_status,
        "batch_id": job.batch_id,
        "input_file_id": job.input_file_id,
        "output_file_id": job.output_file_id,
        "error_file_id": job.error_file_id,
        "organization": job.organization,
    }
    if job.kind is JobKind.BATCH:
        details["request_counts"] = {
            "total": job.total,
            "completed": job.completed,
            "failed": job.failed,
        }
    else:
        details |= {"bytes_done": job.bytes_done, "bytes_total": job.bytes_total}
    return {name: value for name, value in details.items() if value not in (None, "")}


def _links(job_id: str, job: JobStatus, public_url: str | None) -> list[TaskLog]:
    links = []
    if public_url:
        links.append(_link("Batchflow", job_page(public_url, job_id)))
    if job.batch_id:
        links.append(_link("OpenAI batch", batch_page(job.batch_id)))
    elif job.kind is JobKind.UPLOAD and job.input_file_id:
        links.append(_link("OpenAI file", file_page(job.input_file_id)))
    return links


def _link(name: str, uri: str) -> TaskLog:
    """A link that the console shows before the task is RUNNING, too."""
    return TaskLog(name=name, uri=uri, ShowWhilePending=True)
