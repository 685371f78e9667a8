"""The Flyte connectors of the three task types; they call only Redis and Celery, never OpenAI."""

import asyncio
import functools
import logging
from abc import abstractmethod
from collections import OrderedDict
from typing import Any, ClassVar

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
from batchflow.queue import LOST_MESSAGE_CHECK_S, STEP_OF, QueueUnavailable, Step
from batchflow.states import JobKind
from batchflow.store import records
from batchflow_connector import literals, resources
from batchflow_connector.connections import connections
from batchflow_connector.resource_meta import JobMeta

logger = logging.getLogger(__name__)

#: The limit on sending a message; Flyte allows ten seconds for the whole create.
_SEND_TIMEOUT_S = 3.0

#: Calls that wait to be served; gRPC's default is 1,000, beyond which it rejects calls at random.
_GRPC_BACKLOG = 100_000

#: Jobs that were reported RUNNING, whatever their state, because Redis was unavailable. Another
#: connector does not know of them, and can at worst report an earlier phase once more.
_REPORTED_RUNNING: OrderedDict[str, None] = OrderedDict()
_MAX_REPORTED_RUNNING = 100_000


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
        """Create the job, or find it; an unavailable broker does not matter once it is recorded.

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
            return JobMeta.of(await _enqueue(job_request))
        except InvalidInput as error:
            logger.info("Refused a task of type %s: %s", self.task_type, error)
            return JobMeta.refusing(str(error))

    async def get(self, resource_meta: JobMeta, **_: Any) -> Resource:
        """Return the job's state, in one Redis read that concurrent gets share.

        Temporary failures do not raise; the task stays RUNNING.
        """
        job_id = resource_meta.job_id
        if not job_id:
            return resources.refused_resource(resource_meta.refused)
        current = connections()
        try:
            job = await current.store.job_status(job_id)
            if job is None:
                return await _rebuild(resource_meta.job_request())
        except StoreUnavailable as error:
            logger.warning("%s: %s", job_id, error)
            _remember_reported_running(job_id)
            return resources.running_resource(job_id, resources.UNREACHABLE)
        except InvalidInput as error:
            return resources.refused_resource(str(error))
        return resources.resource_of(
            job_id,
            job,
            self.outputs,
            reported_running=job_id in _REPORTED_RUNNING,
            public_url=current.public_url,
        )

    async def delete(self, resource_meta: JobMeta, **_: Any) -> None:
        """Cancel the job unless it has ended; idempotent."""
        job_id = resource_meta.job_id
        if not job_id:
            return
        cancelled = await connections().store.run(
            records.cancel(job_id, message="Cancelled by Flyte.", source="delete")
        )
        logger.info("%s: cancel: %s", job_id, cancelled)
        if cancelled is None:
            # Its batch may be running nevertheless; the rebuilt job finds it and cancels it.
            try:
                job_request = resource_meta.job_request()
            except InvalidInput:
                return
            await connections().store.run(
                records.create(job_request, due_in_s=0, source="delete", rebuilt=True)
            )
            await self.delete(resource_meta)
        elif cancelled is records.CancelResult.REQUESTED:
            await _send(Step.CANCEL, job_id)


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


async def _enqueue(job_request: JobRequest) -> JobRequest:
    """Record a job and enqueue its first step, which a loaded connector leaves to the sweep."""
    with connections().create_load.track() as shed:
        due_in_s = 0 if shed else LOST_MESSAGE_CHECK_S
        job_request, new = await record_async(connections().store, job_request, due_in_s=due_in_s)
        if new and not shed:
            await _send(STEP_OF[JobKind(job_request.spec.kind)], job_request.job_id)
    return job_request


async def _rebuild(job_request: JobRequest) -> Resource:
    """Rebuild the record of a job that has none, or none that this version can read."""
    created = await connections().store.run(
        records.create(job_request, due_in_s=0, source="get", rebuilt=True)
    )
    if not created.new:
        return resources.running_resource(job_request.job_id, resources.UNREADABLE)
    logger.warning("%s: Redis had no record; rebuilt it", job_request.job_id)
    return resources.running_resource(job_request.job_id, records.REBUILDING)


async def _send(step: Step, job_id: str) -> None:
    """Enqueue a step; the sweep does it if the broker does not take the message in time."""
    try:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await asyncio.to_thread(connections().sender.send, step, job_id)
    except (QueueUnavailable, TimeoutError) as error:
        logger.warning("%s: left to the sweep: %s", job_id, error)


def _remember_reported_running(job_id: str) -> None:
    _REPORTED_RUNNING[job_id] = None
    while len(_REPORTED_RUNNING) > _MAX_REPORTED_RUNNING:
        _REPORTED_RUNNING.popitem(last=False)


def _identity(metadata: TaskExecutionMetadata | None) -> tuple[str, int]:
    """``<project>/<domain>/<execution>/<node>``, empty in a local execution, and the attempt."""
    task = metadata.task_execution_id if metadata else None
    node = task.node_execution_id if task else None
    execution = node.execution_id if node else None
    if task is None or node is None or execution is None or not execution.name:
        return "", 0
    name = f"{execution.project}/{execution.domain}/{execution.name}/{node.node_id}"
    return name, int(task.retry_attempt or 0)
