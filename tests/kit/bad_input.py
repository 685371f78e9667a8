"""Tasks that are not valid, from end to end: the real connectors, and the workers' steps."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx2
import msgpack
import pytest
from batchflow_connector.connections import connections, sender
from batchflow_connector.connectors import (
    BatchEndpointConnector,
    BatchflowConnector,
    DownloadConnector,
    UploadConnector,
)
from batchflow_connector.resource_meta import JobMeta
from batchflow_workers.runtime import Runtime
from flyteidl.admin.agent_pb2 import TaskExecutionMetadata as ExecutionMessage
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl.core.literals_pb2 import Literal
from flyteidl.core.literals_pb2 import LiteralMap as InputsMessage
from flyteidl.core.tasks_pb2 import TaskTemplate as TemplateMessage
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from batchflow.openai_client import client
from batchflow.settings import load_settings
from batchflow.store import connect
from tests.kit.emulator import Emulator, running_emulator
from tests.kit.workers import RecordingSender, Workers, lines

T = TypeVar("T")

#: Secrets that no message may contain.
API_KEY = "sk-canary-0123456789abcdefghijklmnopqrstuv"
PASSWORD = "hunter2"
#: Signs of a message that was not written for users.
_RAW = ("Traceback", 'File "', "site-packages", " object at 0x", "pydantic", "Input should be")
_MAX_MESSAGE_BYTES = 16_000
_MAX_META_BYTES = 64_000

BATCH = BatchEndpointConnector.task_type
UPLOAD = UploadConnector.task_type
DOWNLOAD = DownloadConnector.task_type


@dataclass(frozen=True)
class Task:
    """A task as Flyte sends it to the connector."""

    task_type: str
    inputs: Mapping[str, Literal]
    custom: Mapping[str, Any] = field(default_factory=dict)
    output_prefix: str = "s3://bucket/metadata/f1/n0/data/0"
    execution: str = ""


@dataclass(frozen=True)
class TaskStatus:
    """The part of the connector's response that the user sees."""

    phase: str
    message: str


class TaskRunner:
    """Connectors in this process, and workers whose steps a test runs one by one.

    ``valid`` is a task that succeeds.
    """

    def __init__(
        self,
        workers: Workers,
        http: httpx2.Client,
        run: Callable[[Coroutine[Any, Any, T]], T],
        valid: Task,
    ) -> None:
        self.workers = workers
        self.valid = valid
        self._http = http
        self._run: Callable[[Coroutine[Any, Any, Any]], Any] = run
        connectors = (BatchEndpointConnector(), UploadConnector(), DownloadConnector())
        self._connectors: dict[str, BatchflowConnector] = {c.task_type: c for c in connectors}

    def create(self, task: Task) -> bytes:
        """Create a task through the wire format, and return its encoded ResourceMeta."""
        template = TemplateMessage(type=task.task_type)
        template.custom.update(task.custom)
        inputs = InputsMessage(literals=task.inputs)
        meta: JobMeta = self._run(
            self._connectors[task.task_type].create(
                TaskTemplate.from_flyte_idl(
                    TemplateMessage.FromString(template.SerializeToString())
                ),
                task.output_prefix,
                LiteralMap.from_flyte_idl(InputsMessage.FromString(inputs.SerializeToString())),
                TaskExecutionMetadata.from_flyte_idl(_metadata(task.execution)),
            )
        )
        return meta.encode()

    def get(self, task_type: str, meta: bytes) -> TaskStatus:
        """Get a task through the wire format."""
        found = self._run(self._connectors[task_type].get(JobMeta.decode(meta)))
        resource = self._run(found.to_flyte_idl())
        return TaskStatus(TaskExecution.Phase.Name(resource.phase), resource.message)

    def delete(self, task_type: str, meta: bytes) -> None:
        """Delete a task."""
        self._run(self._connectors[task_type].delete(JobMeta.decode(meta)))

    def step(self, meta: bytes) -> None:
        """Run the due step of the task's job."""
        self.workers.step(JobMeta.decode(meta).job_id)

    def stats(self) -> dict[str, Any]:
        """The emulator's statistics: calls, uploaded files, created batches."""
        stats: dict[str, Any] = self._http.get("/simulator/stats").raise_for_status().json()
        return stats

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Check that the block calls nothing at OpenAI and does not stop a valid task."""
        meta = self.create(self.valid)
        before = self.stats()
        yield
        assert self.stats() == before, "the bad input reached OpenAI"
        assert self.get(self.valid.task_type, meta).phase == "INITIALIZING"
        self.step(meta)
        assert self.get(self.valid.task_type, meta) == TaskStatus("SUCCEEDED", "")

    def failures(self, tasks: Mapping[str, Task], *, by_worker: bool) -> dict[str, str]:
        """Run tasks side by side that must fail; returns their messages, by the tasks' names.

        ``by_worker`` means that only a worker can find the fault.
        """
        with self.undisturbed():
            metas = {name: self.create(task) for name, task in tasks.items()}
            messages = {
                name: self._failure(tasks[name].task_type, meta, by_worker)
                for name, meta in metas.items()
            }
        unclear = {name: message for name, message in messages.items() if not is_clear(message)}
        assert not unclear
        return messages

    def failure(self, task: Task, *, by_worker: bool) -> str:
        """Like :meth:`failures`, for one task."""
        return self.failures({"task": task}, by_worker=by_worker)["task"]

    def _failure(self, task_type: str, meta: bytes, by_worker: bool) -> str:
        assert len(meta) < _MAX_META_BYTES
        if by_worker:
            assert self.get(task_type, meta).phase == "INITIALIZING"
            self.step(meta)
        status = self.get(task_type, meta)
        assert status.phase == "FAILED", status
        self.delete(task_type, meta)
        assert self.get(task_type, meta) == status
        return status.message


@contextmanager
def running_tasks(redis_url: str, folder: Path) -> Iterator[TaskRunner]:
    """A task runner with an emulator and a namespace of its own.

    ``folder`` is for the file of the valid task.
    """
    key_prefix = f"test-{uuid4()}"
    organization = f"org-{key_prefix}"
    with (
        running_emulator(API_KEY) as emulator,
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner() as runner,
        httpx2.Client(base_url=emulator.base_url.removesuffix("/v1")) as http,
    ):
        patch.setenv("BATCHFLOW_REDIS_URL", redis_url)
        patch.setenv("BATCHFLOW_KEY_PREFIX", key_prefix)
        patch.setenv("OPENAI_BASE_URL", emulator.base_url)
        patch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", API_KEY)
        path = folder / "valid.jsonl"
        path.write_bytes(lines())
        valid = Task(UPLOAD, {"jsonl_in": blob(str(path))}, {"openai_organization": organization})
        _clear_caches()
        try:
            yield TaskRunner(_workers(emulator, organization), http, runner.run, valid)
        finally:
            runner.run(_disconnect())
            _clear_caches()


def is_clear(message: str) -> bool:
    """Whether a message suits users: short, printable, without secrets and internals."""
    parts = message.split("\n")
    return (
        0 < len(message.encode()) <= _MAX_MESSAGE_BYTES
        and all(line.isprintable() and line for line in parts)
        and (message.endswith(".") or len(parts) > 1)
        and not any(secret in message for secret in (API_KEY[:16], PASSWORD))
        and not any(sign in message for sign in _RAW)
    )


# Literals


def text(value: str) -> Literal:
    """A str, as flytekit sends it."""
    literal = Literal()
    literal.scalar.primitive.string_value = value
    return literal


def packed(value: object, tag: str = "msgpack") -> Literal:
    """A value as msgpack, as flytekit sends a dict; bytes count as encoded."""
    literal = Literal()
    literal.scalar.binary.value = value if isinstance(value, bytes) else msgpack.packb(value)
    literal.scalar.binary.tag = tag
    return literal


def struct(value: Mapping[str, Any], **metadata: str) -> Literal:
    """A dict, as flytekit sent it before 1.14."""
    literal = Literal(metadata=metadata)
    literal.scalar.generic.update(value)
    literal.scalar.generic.SetInParent()
    return literal


def blob(uri: str) -> Literal:
    """A file."""
    literal = Literal()
    literal.scalar.blob.uri = uri
    literal.scalar.blob.metadata.type.format = "jsonl"
    return literal


def _metadata(execution: str) -> ExecutionMessage:
    node = NodeExecutionIdentifier(
        node_id="n0",
        execution_id=WorkflowExecutionIdentifier(project="p", domain="d", name=execution),
    )
    return ExecutionMessage(task_execution_id=TaskExecutionIdentifier(node_execution_id=node))


def _workers(emulator: Emulator, organization: str) -> Workers:
    settings, sender = load_settings(), RecordingSender()
    runtime = Runtime(settings, connect(settings), sender)
    return Workers(runtime, emulator, organization, sender)


def _clear_caches() -> None:
    """Drop what was made from the environment."""
    load_settings.cache_clear()
    sender.cache_clear()
    client.cached_sdk_client.cache_clear()


async def _disconnect() -> None:
    await connections().store.redis.aclose()
