"""What Flyte is told: a job as a Resource."""

from typing import Any

import msgpack
from flyteidl.admin.agent_pb2 import Resource as ResourceMessage
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.core.constants import MESSAGEPACK
from flytekit.extend.backend.base_connector import Resource
from flytekit.models.literals import Binary, Literal, LiteralMap, Primitive, Scalar
from google.protobuf.struct_pb2 import Struct, Value

from batchflow.jobs import Standing
from batchflow.links import batch_page, file_page, job_page
from batchflow.states import JobKind, JobState, Phase, phase_of


class Answer(Resource):  # type: ignore[misc]  # flytekit is untyped
    """A Resource that becomes protobuf without a detour over JSON text."""

    async def to_flyte_idl(self) -> ResourceMessage:
        """As Flyte gets it."""
        return ResourceMessage(
            phase=self.phase,
            message=self.message,
            log_links=self.log_links,
            outputs=self.outputs.to_flyte_idl() if self.outputs else None,
            custom_info=_struct(self.custom_info or {}),
        )


def answer(
    job_id: str,
    job: Standing,
    outputs: LiteralMap | None,
    *,
    told_running: bool = False,
    public_url: str | None = None,
) -> Resource:
    """A job's phase, message, details, links, and its outputs if it succeeded.

    ``told_running`` says that Flyte has been told RUNNING already: its phase must not go back.
    ``public_url`` is where people reach the gateway, which has a page about the job.
    """
    phase = phase_of(job.kind, job.state, job.stage)
    if told_running and phase in (Phase.QUEUED, Phase.INITIALIZING):
        phase = Phase.RUNNING
    return Answer(
        phase=_phase(phase),
        message=job.message or _default_message(job),
        custom_info=_details(job_id, job, public_url),
        log_links=_links(job_id, job, public_url),
        outputs=outputs,
    )


def refused(reason: str) -> Resource:
    """A task that can't work."""
    return Answer(phase=_phase(Phase.FAILED), message=reason)


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


def _phase(phase: Phase) -> TaskExecution.Phase:
    return TaskExecution.Phase.Value(phase)


def _kept_alive(job_id: str, message: str) -> Resource:
    return Answer(
        phase=_phase(Phase.RUNNING),
        message=message,
        custom_info={"job_id": job_id, "message": message},
    )


def _default_message(job: Standing) -> str | None:
    match job.state:
        case JobState.QUEUED:
            return "Waiting for a worker"
        case JobState.RUNNING if job.kind is JobKind.BATCH:
            return f"{job.openai_status or 'running'}: {job.completed + job.failed} of {job.total}"
        case JobState.SUCCEEDED:
            return None
        case _:
            return f"The job has ended as {job.state}"


def _details(job_id: str, job: Standing, public_url: str | None) -> dict[str, Any]:
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


def _links(job_id: str, job: Standing, public_url: str | None) -> list[TaskLog]:
    links = []
    if public_url:
        links.append(TaskLog(name="Batchflow", uri=job_page(public_url, job_id)))
    if job.batch_id:
        links.append(TaskLog(name="OpenAI batch", uri=batch_page(job.batch_id)))
    elif job.kind is JobKind.UPLOAD and job.input_file_id:
        links.append(TaskLog(name="OpenAI file", uri=file_page(job.input_file_id)))
    return links
