"""The Flyte connectors of the three task types; they call only Redis and Celery, never OpenAI."""

import asyncio
import functools
import logging
from abc import abstractmethod
from collections import OrderedDict
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import grpc.aio
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
)
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from batchflow.errors import InvalidInput, StoreUnavailable
from batchflow.job_requests.enqueue import record_async
from batchflow.job_requests.identity import make_job_request
from batchflow.job_requests.specs import batch_spec, download_spec, upload_spec
from batchflow.jobs import JobRequest, Spec
from batchflow.queue import LOST_MESSAGE_CHECK_S, STEP_OF, Step
from batchflow.states import JobKind, Phase
from batchflow.store import records
from batchflow_connector import literals, resources
from batchflow_connector.connections import connections
from batchflow_connector.resource_meta import JobMeta

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

#: How long a create tries to record its job and to enqueue its step; Flyte allows ten seconds.
_CREATE_TIMEOUT_S = 3.0
#: How long a get waits for Redis, so that it is answered within five seconds.
_GET_TIMEOUT_S = 4.0

#: Calls that wait to be served; gRPC's default is 1,000, beyond which it rejects calls at random.
_GRPC_BACKLOG = 100_000

#: The jobs that this connector remembers.
_MAX_REMEMBERED = 100_000


class _Memory(OrderedDict[K, V]):
    """Keeps the newest entries."""

    def remember(self, key: K, value: V) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > _MAX_REMEMBERED:
            self.popitem(last=False)


#: The last phase of each live job that this connector has reported.
_REPORTED: _Memory[str, Phase] = _Memory()
#: Metadata of a job that could not be recorded -> the job's request, since it is recorded.
_RECORDED: _Memory[bytes, JobRequest] = _Memory()


class BatchflowConnector(AsyncConnectorBase):  # type: ignore[misc]  # flytekit is untyped
    """What the three connectors share: they create, read and cancel a job."""

    task_type: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(task_type_name=self.task_type, metadata_type=JobMeta)

    @abstractmethod
    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        """The spec of the task's job; raises InvalidInput."""

    @abstractmethod
    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        """The task's outputs, from the ``result`` of its job."""

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: LiteralMap | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **_: Any,
    ) -> JobMeta:
        """Create the job, or find it. If Redis is unavailable, the first ``get`` after that does.

        A task that is not valid gets metadata, too; its ``get`` returns FAILED with the reason.
        """
        execution, attempt = _identity(task_execution_metadata)
        try:
            spec = self.spec(
                task_template.custom or {}, inputs or LiteralMap(literals={}), output_prefix
            )
            job_request = make_job_request(
                spec, execution=execution, output_prefix=output_prefix, attempt=attempt
            )
            return await _create(job_request)
        except InvalidInput as error:
            logger.info("Refused a task of type %s: %s", self.task_type, error)
            return JobMeta.refusing(str(error))

    async def get(self, resource_meta: JobMeta, **_: Any) -> Resource:
        """Return the job's state, in one Redis read that concurrent gets share.

        Temporary failures do not raise; the task stays in its phase.
        """
        if not resource_meta.job_id:
            return resources.refused_resource(resource_meta.refused)
        try:
            async with asyncio.timeout(_GET_TIMEOUT_S):
                return await self._current(resource_meta)
        except InvalidInput as error:
            return resources.refused_resource(str(error))
        except (StoreUnavailable, TimeoutError) as error:
            logger.warning("%s: %s", resource_meta.job_id, error or "Redis does not reply")
            return _unknown(resource_meta)

    async def delete(self, resource_meta: JobMeta, **_: Any) -> None:
        """Let the job be cancelled after a delay unless it ends before; idempotent.

        A local execution has no other attempt that could take the job over, so its job is cancelled
        at once.
        """
        job_id = resource_meta.job_id
        if not job_id:
            return
        current = connections()
        try:
            job_request = resource_meta.job_request()
        except InvalidInput:
            cancel = records.cancel(job_id, message="Cancelled by Flyte.", source="delete")
            await current.store.run(cancel)
            return
        delay_s = current.delete_delay_s if job_request.execution else 0
        if resource_meta.unrecorded:
            job_request, _new = await record_async(current.store, job_request, due_in_s=delay_s)
        await _delete(job_request, delay_s)

    async def _current(self, meta: JobMeta) -> Resource:
        """The job's state; records the job if that was not possible before."""
        current = connections()
        job_request = await _recorded(meta) if meta.unrecorded else None
        job_id = job_request.job_id if job_request else meta.job_id
        job = await current.store.job_status(job_id)
        if job is None:
            return await _rebuild(job_request or meta.job_request())
        if job.state.terminal:
            _REPORTED.pop(job_id, None)
            if not job.collected_at:
                with suppress(StoreUnavailable):
                    await current.store.run(records.collect(job_id))
        else:
            _REPORTED.remember(job_id, job.phase)
        return resources.resource_of(job_id, job, self.outputs, public_url=current.public_url)


class BatchEndpointConnector(BatchflowConnector):
    """``openai-batch``: run a batch."""

    name = "Batchflow OpenAI batch"
    task_type = "openai-batch"

    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        return batch_spec(custom, literals.input_value(inputs, "input_file_id", str))

    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        return literals.output(literals.dict_literal(result))


class UploadConnector(BatchflowConnector):
    """``openai-batch-upload-file``: upload a JSONL file."""

    name = "Batchflow OpenAI file upload"
    task_type = "openai-batch-upload-file"

    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        return upload_spec(custom, literals.input_file(inputs, "jsonl_in"))

    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        return literals.output(literals.string_literal(result["file_id"]))


class DownloadConnector(BatchflowConnector):
    """``openai-batch-download-files``: download a batch's files."""

    name = "Batchflow OpenAI file download"
    task_type = "openai-batch-download-files"

    def spec(self, custom: dict[str, Any], inputs: LiteralMap, output_prefix: str) -> Spec:
        batch = literals.input_value(inputs, "batch_endpoint_result", dict)
        return download_spec(custom, batch, output_prefix)

    def outputs(self, result: dict[str, Any]) -> LiteralMap:
        return literals.output(literals.batch_result_literal(result))


def register() -> None:
    """Register the connectors of the three task types, and enlarge the gRPC server's backlog."""
    # flytekit makes the server and offers no way to pass options to it.
    backlog = ("max_pending_requests", "max_pending_requests_hard_limit")
    options = [(f"grpc.server.{name}", _GRPC_BACKLOG) for name in backlog]
    grpc.aio.server = functools.partial(grpc.aio.server, options=options)
    for connector in (BatchEndpointConnector(), UploadConnector(), DownloadConnector()):
        ConnectorRegistry.register(connector, override=True)


async def _create(job_request: JobRequest) -> JobMeta:
    """Record a job and enqueue its first step; while Redis is unavailable, neither."""
    try:
        return JobMeta.of(await _enqueue(job_request))
    except (StoreUnavailable, TimeoutError) as error:
        reason = error or "Redis does not reply"
        logger.warning("%s: left to the next get: %s", job_request.job_id, reason)
        return JobMeta.of_unrecorded(job_request)


async def _enqueue(job_request: JobRequest) -> JobRequest:
    """Record a job and enqueue its first step, which a loaded connector leaves to the sweep."""
    current = connections()
    deadline_s = asyncio.get_running_loop().time() + _CREATE_TIMEOUT_S
    with current.create_load.track() as loaded:
        shed = loaded or current.sender.paused
        due_in_s = 0 if shed else LOST_MESSAGE_CHECK_S
        async with asyncio.timeout_at(deadline_s):
            job_request, new = await record_async(current.store, job_request, due_in_s=due_in_s)
        if new and not shed:
            step = STEP_OF[JobKind(job_request.spec.kind)]
            await current.sender.send(step, job_request.job_id, deadline_s)
    return job_request


async def _recorded(meta: JobMeta) -> JobRequest:
    """Record the job of metadata that was made while Redis was unavailable, or find it."""
    job_request = _RECORDED.get(meta.data)
    if job_request is None:
        job_request = await _enqueue(meta.job_request())
        _RECORDED.remember(meta.data, job_request)
    return job_request


async def _rebuild(job_request: JobRequest) -> Resource:
    """Rebuild the record of a job that has none, or none that this version can read."""
    current = connections()
    created = await current.store.run(
        records.create(job_request, due_in_s=0, source="get", rebuilt=True)
    )
    message = records.REBUILDING if created.new else resources.UNREADABLE
    if created.new:
        logger.warning("%s: Redis had no record; rebuilt it", job_request.job_id)
    return resources.unknown_resource(job_request.job_id, message, public_url=current.public_url)


async def _delete(job_request: JobRequest, delay_s: float) -> None:
    current, job_id = connections(), job_request.job_id
    delete = records.delete_task(job_id, attempt=job_request.attempt, delay_s=delay_s)
    result = await current.store.run(delete)
    if result is None:
        # Its batch may be running nevertheless; the rebuilt job finds it and cancels it.
        await current.store.run(
            records.create(job_request, due_in_s=delay_s, source="delete", rebuilt=True)
        )
        result = await current.store.run(delete)
    logger.info("%s: delete: %s", job_id, result)
    if result is records.DeleteResult.SCHEDULED and not delay_s:
        cancelled = await current.store.run(records.cancel_deleted(job_id))
        if cancelled is records.CancelResult.REQUESTED:
            deadline_s = asyncio.get_running_loop().time() + _CREATE_TIMEOUT_S
            await current.sender.send(Step.CANCEL, job_id, deadline_s)


def _unknown(meta: JobMeta) -> Resource:
    """A job while Redis is unavailable: in the phase that this connector reported last.

    Otherwise in INITIALIZING, which most tasks have been in; Flyte shows a phase once.
    """
    job_request = _RECORDED.get(meta.data) if meta.unrecorded else None
    job_id = job_request.job_id if job_request else meta.job_id
    return resources.unknown_resource(
        job_id,
        resources.UNREACHABLE,
        phase=_REPORTED.get(job_id, Phase.INITIALIZING),
        public_url=connections().public_url,
    )


def _identity(metadata: TaskExecutionMetadata | None) -> tuple[str, int]:
    """``<project>/<domain>/<execution>/<node>``, empty in a local execution, and the attempt."""
    task = metadata.task_execution_id if metadata else None
    node = task.node_execution_id if task else None
    execution = node.execution_id if node else None
    if task is None or node is None or execution is None or not execution.name:
        return "", 0
    name = f"{execution.project}/{execution.domain}/{execution.name}/{node.node_id}"
    return name, int(task.retry_attempt or 0)
