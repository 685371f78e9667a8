"""create, get and delete for the three task types. No OpenAI call is made and no key is held."""

import asyncio
import logging
from abc import abstractmethod
from collections import OrderedDict
from typing import Any, ClassVar, TypeVar

import msgpack
from flytekit.core.constants import MESSAGEPACK
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
)
from flytekit.models.literals import LiteralMap, Scalar
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate
from google.protobuf.json_format import MessageToDict

from batchflow.errors import InvalidInput, StoreUnavailable
from batchflow.job_requests.build import (
    batch_spec,
    download_spec,
    make_job_request,
    next_generation,
    upload_spec,
)
from batchflow.jobs import JobRequest, Spec
from batchflow.queue import LOST_MESSAGE_CHECK_S, STEP_OF, QueueUnavailable, Step
from batchflow.states import JobKind
from batchflow.store import records
from batchflow_connector import resources
from batchflow_connector.connections import backend
from batchflow_connector.load_shedding import let_calls_wait
from batchflow_connector.resource_meta import JobMeta

logger = logging.getLogger(__name__)

T = TypeVar("T")


class BatchflowConnector(AsyncConnectorBase):  # type: ignore[misc]  # flytekit is untyped
    """What the three have in common: a job is recorded, read, cancelled."""

    task_type: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(task_type_name=self.task_type, metadata_type=JobMeta)

    @abstractmethod
    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        """What the task asks for; raises InvalidInput."""

    @abstractmethod
    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        """The outputs of a job that succeeded, from its record's ``result``."""

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: LiteralMap | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **_: Any,
    ) -> JobMeta:
        """Record the job, or find it. Once it is recorded this succeeds, whatever the broker says.

        A task that can't work is answered, too: its ``get`` says FAILED and why.
        """
        execution, attempt = _identity(task_execution_metadata)
        try:
            spec = self.spec(
                task_template.custom or {}, inputs or LiteralMap(literals={}), output_prefix
            )
            job_request = make_job_request(
                spec, execution=execution, output_prefix=output_prefix, attempt=attempt
            )
            return JobMeta.of(await _place(job_request))
        except InvalidInput as error:
            logger.info("Refused a task of type %s: %s", self.task_type, error)
            return JobMeta.refusing(str(error))

    async def get(self, resource_meta: JobMeta, **_: Any) -> Resource:
        """One Redis read, shared with the questions about other tasks that came meanwhile. It
        raises for nothing that passes by itself."""
        job_id = resource_meta.job_id
        if not job_id:
            return resources.refused(resource_meta.refused)
        ours = backend()
        try:
            job = await ours.store.standing(job_id)
            if job is None:
                return await _find_again(resource_meta.job_request())
        except StoreUnavailable as error:
            logger.warning("%s: %s", job_id, error)
            _remember_told_running(job_id)
            return resources.store_unreachable(job_id)
        except InvalidInput as error:
            return resources.refused(str(error))
        return resources.answer(
            job_id,
            job,
            self.outputs,
            reported_running=job_id in _TOLD_RUNNING,
            public_url=ours.public_url,
        )

    async def delete(self, resource_meta: JobMeta, **_: Any) -> None:
        """Cancel the job, if it has not ended. Idempotent."""
        job_id = resource_meta.job_id
        if not job_id:
            return
        what = await backend().store.run(
            records.cancel(job_id, message="Cancelled by Flyte.", source="delete")
        )
        logger.info("%s: cancel: %s", job_id, what)
        if what is records.Cancelled.MISSING:
            # Its batch may be running all the same: find it, then cancel it.
            try:
                job_request = resource_meta.job_request()
            except InvalidInput:
                return
            await backend().store.run(
                records.create(job_request, due_in_s=0, source="delete", rebuilt=True)
            )
            await self.delete(resource_meta)
        elif what is records.Cancelled.REQUESTED:
            await _send(Step.CANCEL, job_id)


class BatchEndpointConnector(BatchflowConnector):
    """``openai-batch``: runs a batch."""

    name = "Batchflow OpenAI batch"
    task_type = "openai-batch"

    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        return batch_spec(custom, _native(inputs, "input_file_id", str))

    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        return resources.outputs(resources.struct(result))


class UploadConnector(BatchflowConnector):
    """``openai-batch-upload-file``: uploads a JSONL file."""

    name = "Batchflow OpenAI file upload"
    task_type = "openai-batch-upload-file"

    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        literal = inputs.literals.get("jsonl_in")
        if literal is None or literal.scalar is None or literal.scalar.blob is None:
            raise InvalidInput("The task's input jsonl_in must be a JSONL file.")
        return upload_spec(custom, literal.scalar.blob.uri)

    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        return resources.outputs(resources.text(result["file_id"]))


class DownloadConnector(BatchflowConnector):
    """``openai-batch-download-files``: fetches a batch's files."""

    name = "Batchflow OpenAI file download"
    task_type = "openai-batch-download-files"

    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        batch = _native(inputs, "batch_endpoint_result", dict)
        return download_spec(custom, batch, output_prefix)

    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        return resources.outputs(resources.batch_result(result))


def register() -> None:
    """Make these the connectors of their task types, in a server that bears a rush."""
    let_calls_wait()
    for connector in (BatchEndpointConnector(), UploadConnector(), DownloadConnector()):
        ConnectorRegistry.register(connector, override=True)


#: Jobs that were answered for while Redis was away, as RUNNING, whatever they were. Another
#: connector does not know of it; all that it can do is show an earlier phase once more.
_TOLD_RUNNING: OrderedDict[str, None] = OrderedDict()
_MOST_REMEMBERED = 100_000


def _remember_told_running(job_id: str) -> None:
    _TOLD_RUNNING[job_id] = None
    while len(_TOLD_RUNNING) > _MOST_REMEMBERED:
        _TOLD_RUNNING.popitem(last=False)


async def _place(job_request: JobRequest) -> JobRequest:
    with backend().rush.one_more() as many:
        due_in_s = 0 if many else LOST_MESSAGE_CHECK_S
        while True:
            created = await backend().store.run(records.create(job_request, due_in_s=due_in_s))
            following = next_generation(job_request, created)
            if following is None:
                break
            job_request = following
        if created.new and not many:
            await _send(STEP_OF[JobKind(job_request.spec.kind)], job_request.job_id)
    return job_request


async def _find_again(job_request: JobRequest) -> Resource:
    """Answer for a job that Redis has no record of, or none that can be read."""
    created = await backend().store.run(
        records.create(job_request, due_in_s=0, source="get", rebuilt=True)
    )
    if not created.new:
        return resources.unreadable(job_request.job_id)
    logger.warning("%s: Redis had no record; made it again", job_request.job_id)
    return resources.being_found_again(job_request.job_id)


async def _send(step: Step, job_id: str) -> None:
    """Nudge the workers; the sweep does it, if the broker doesn't take it in time."""
    try:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await asyncio.to_thread(backend().sender.send, step, job_id)
    except (QueueUnavailable, TimeoutError) as error:
        logger.warning("%s: the sweep will send it: %s", job_id, error)


#: Flyte gives a create ten seconds in all.
_SEND_TIMEOUT_S = 3.0


def _native(inputs: LiteralMap, name: str, expected: type[T]) -> T:
    """An input as a Python value; a dict may come as msgpack or, from before 1.14, as a Struct.

    flytekit's type engine would do more than that: what a literal says, it fetches from anywhere
    and unpickles, here, in the connector.
    """
    literal = inputs.literals.get(name)
    if literal is None:
        raise InvalidInput(f"The task needs the input {name}.")
    try:
        value = _plain(literal.scalar)
    except ValueError as error:
        raise InvalidInput(
            f"The task's input {name} can't be read ({type(error).__name__})."
        ) from error
    if not isinstance(value, expected):
        raise InvalidInput(f"The task's input {name} must be a {expected.__name__}.")
    return value


def _plain(scalar: Scalar | None) -> Any:
    """A scalar's value, None if it is of another form; raises ValueError for broken msgpack."""
    if scalar is None:
        return None
    if scalar.primitive is not None:
        return scalar.primitive.string_value
    if scalar.binary is not None and scalar.binary.tag == MESSAGEPACK:
        return msgpack.unpackb(scalar.binary.value)
    if scalar.generic is not None:
        return MessageToDict(scalar.generic)
    return None


def _identity(metadata: TaskExecutionMetadata | None) -> tuple[str, int]:
    """Flyte's name of the execution and node, empty if there is none, and the attempt."""
    task = metadata.task_execution_id if metadata else None
    node = task.node_execution_id if task else None
    execution = node.execution_id if node else None
    if task is None or node is None or execution is None or not execution.name:
        return "", 0
    name = f"{execution.project}/{execution.domain}/{execution.name}/{node.node_id}"
    return name, int(task.retry_attempt or 0)
