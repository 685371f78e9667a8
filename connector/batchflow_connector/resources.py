"""What Flyte is told: a job as a Resource."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgpack
import orjson
from flyteidl.admin.agent_pb2 import Resource as ResourceMessage
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.core.constants import MESSAGEPACK
from flytekit.extend.backend.base_connector import Resource
from flytekit.models.literals import Binary, Literal, LiteralMap, Primitive, Scalar
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value

from batchflow.jobs import JobStatus
from batchflow.links import batch_page, file_page, job_page
from batchflow.states import JobKind, JobState, Phase, phase_of

#: Flyte asks about a running task far more often than anything changes: the latest answers are
#: kept, about 1.5 KB each.
_MOST_KEPT = 10_000


class Answer(Resource):  # type: ignore[misc]  # flytekit is untyped
    """A Resource that is protobuf from the beginning; a local execution reads its parts."""

    def __init__(self, message: ResourceMessage) -> None:
        self._message = message

    async def to_flyte_idl(self) -> ResourceMessage:
        """As Flyte gets it."""
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


def answer(
    job_id: str,
    job: JobStatus,
    outputs: Callable[[dict[str, Any]], LiteralMap],
    *,
    reported_running: bool = False,
    public_url: str | None = None,
) -> Resource:
    """A job's phase, message, details, links, and its outputs if it succeeded.

    ``outputs`` makes them from the record's ``result``. ``told_running`` says that Flyte has been
    told RUNNING already: its phase must not go back. ``public_url`` is where people reach the
    gateway, which has a page about the job.
    """
    return Answer(
        ResourceMessage.FromString(_packed(job_id, job, outputs, reported_running, public_url))
    )


@lru_cache(_MOST_KEPT)
def _packed(
    job_id: str,
    job: JobStatus,
    outputs: Callable[[dict[str, Any]], LiteralMap],
    reported_running: bool,
    public_url: str | None,
) -> bytes:
    phase = phase_of(job.kind, job.state, job.stage)
    if reported_running and phase in (Phase.QUEUED, Phase.INITIALIZING):
        phase = Phase.RUNNING
    told = _message(
        phase,
        job.message or _default_message(job),
        _details(job_id, job, public_url),
        log_links=_links(job_id, job, public_url),
        outputs=outputs(orjson.loads(job.result)).to_flyte_idl() if job.result else None,
    )
    return bytes(told.SerializeToString())


def refused(reason: str) -> Resource:
    """A task that can't work."""
    return Answer(_message(Phase.FAILED, reason, {}))


def being_found_again(job_id: str) -> Resource:
    """A job whose record Redis had lost."""
    return _kept_alive(job_id, "Redis had lost this job's record; finding out how far it had come")


def unreadable(job_id: str) -> Resource:
    """A job whose record another version of Batchflow wrote."""
    return _kept_alive(
        job_id,
        "This job's record was written by another version of Batchflow; update the connector",
    )


def store_unreachable(job_id: str) -> Resource:
    """A job of which nothing is known just now."""
    return _kept_alive(job_id, "status store unreachable")


def outputs(result: Literal) -> LiteralMap:
    """All three task types have one output, ``result``."""
    return LiteralMap(literals={"result": result})


def struct(value: dict[str, Any]) -> Literal:
    """A dict, in flytekit's form."""
    packed = msgpack.packb(value)
    return Literal(scalar=Scalar(binary=Binary(value=packed, tag=MESSAGEPACK)))


def text(value: str) -> Literal:
    """A str."""
    return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))


def batch_result(files: dict[str, str | None]) -> Literal:
    """A ``BatchResult`` whose files are where the worker put them.

    The type engine would copy local ones once more, in the connector.
    """
    return struct({name: {"path": uri} if uri else None for name, uri in files.items()})


def _struct(values: dict[str, Any]) -> Struct:
    return Struct(fields={name: _value(value) for name, value in values.items()})


def _value(value: Any) -> Value:
    match value:
        case str():
            return Value(string_value=value)
        case dict():
            return Value(struct_value=_struct(value))
        case _:
            return Value(number_value=value)


def _message(
    phase: Phase, message: str | None, details: dict[str, Any], **further: Any
) -> ResourceMessage:
    return ResourceMessage(
        phase=TaskExecution.Phase.Value(phase),
        message=message,
        custom_info=_struct(details),
        **further,
    )


def _kept_alive(job_id: str, message: str) -> Resource:
    return Answer(_message(Phase.RUNNING, message, {"job_id": job_id, "message": message}))


def _default_message(job: JobStatus) -> str | None:
    match job.state:
        case JobState.QUEUED:
            return "Waiting for a worker"
        case JobState.RUNNING if job.kind is JobKind.BATCH:
            return f"{job.openai_status or 'running'}: {job.completed + job.failed} of {job.total}"
        case JobState.SUCCEEDED:
            return None
        case _:
            return f"The job has ended as {job.state}"


def _details(job_id: str, job: JobStatus, public_url: str | None) -> dict[str, Any]:
    """What the Flyte console shows beside the task, of which RUNNING shows nothing else."""
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
        links.append(TaskLog(name="Batchflow", uri=job_page(public_url, job_id)))
    if job.batch_id:
        links.append(TaskLog(name="OpenAI batch", uri=batch_page(job.batch_id)))
    elif job.kind is JobKind.UPLOAD and job.input_file_id:
        links.append(TaskLog(name="OpenAI file", uri=file_page(job.input_file_id)))
    return links
