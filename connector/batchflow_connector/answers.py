"""What Flyte is told: a job as a Resource."""

from typing import Any

import msgpack
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.core.constants import MESSAGEPACK
from flytekit.extend.backend.base_connector import Resource
from flytekit.models.literals import Binary, Literal, LiteralMap, Primitive, Scalar

from batchflow.jobs import Job, Order
from batchflow.links import batch_page, file_page, job_page
from batchflow.states import JobKind, JobState, Phase, phase_of


def answer(
    job: Job,
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
    return Resource(
        phase=_phase(phase),
        message=job.message or _default_message(job),
        custom_info=_details(job, public_url),
        log_links=_links(job, public_url),
        outputs=outputs,
    )


def refused(reason: str) -> Resource:
    """A task that can't work."""
    return Resource(phase=_phase(Phase.FAILED), message=reason)


def being_found_again(order: Order) -> Resource:
    """A job whose record Redis had lost."""
    return _kept_alive(order, "Redis had lost this job's record; finding out how far it had come")


def unreadable(order: Order) -> Resource:
    """A job whose record another version of Batchflow wrote."""
    return _kept_alive(
        order, "This job's record was written by another version of Batchflow; update the connector"
    )


def store_unreachable(order: Order) -> Resource:
    """A job of which nothing is known just now."""
    return _kept_alive(order, "status store unreachable")


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


def _phase(phase: Phase) -> TaskExecution.Phase:
    return TaskExecution.Phase.Value(phase)


def _kept_alive(order: Order, message: str) -> Resource:
    return Resource(
        phase=_phase(Phase.RUNNING),
        message=message,
        custom_info={"job_id": order.job_id, "message": message},
    )


def _default_message(job: Job) -> str | None:
    match job.state:
        case JobState.QUEUED:
            return "Waiting for a worker"
        case JobState.RUNNING if job.kind is JobKind.BATCH:
            return f"{job.openai_status or 'running'}: {job.completed + job.failed} of {job.total}"
        case JobState.SUCCEEDED:
            return None
        case _:
            return f"The job has ended as {job.state}"


def _details(job: Job, public_url: str | None) -> dict[str, Any]:
    """What the Flyte console shows beside the task, of which RUNNING shows nothing else."""
    details: dict[str, Any] = {
        "job_id": job.id,
        "page": job_page(public_url, job.id) if public_url else None,
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


def _links(job: Job, public_url: str | None) -> list[TaskLog]:
    links = []
    if public_url:
        links.append(TaskLog(name="Batchflow", uri=job_page(public_url, job.id)))
    if job.batch_id:
        links.append(TaskLog(name="OpenAI batch", uri=batch_page(job.batch_id)))
    elif job.kind is JobKind.UPLOAD and job.input_file_id:
        links.append(TaskLog(name="OpenAI file", uri=file_page(job.input_file_id)))
    return links
