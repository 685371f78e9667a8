"""Bad input from end to end: the real connectors' create and get, and the workers' steps."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
from tests.kit.steps import Notes, Steps

T = TypeVar("T")

#: In no message, wherever it was put.
API_KEY = "sk-canary-0123456789abcdefghijklmnopqrstuv"
PASSWORD = "hunter2"
#: Signs of something that was not written for people.
_RAW = ("Traceback", 'File "', "site-packages", " object at 0x", "pydantic", "Input should be")
_LONGEST_MESSAGE = 16_000

BATCH = BatchEndpointConnector.task_type
UPLOAD = UploadConnector.task_type
DOWNLOAD = DownloadConnector.task_type


@dataclass(frozen=True)
class Task:
    """What Flyte sends to the connector."""

    task_type: str
    inputs: Mapping[str, Literal]
    custom: Mapping[str, Any] = field(default_factory=dict)
    output_prefix: str = "s3://bucket/metadata/f1/n0/data/0"
    execution: str = ""


@dataclass(frozen=True)
class Answer:
    """What Flyte gets to know."""

    phase: str
    message: str


class Bench:
    """Connectors in this process, and workers whose steps are taken by hand."""

    def __init__(
        self, steps: Steps, http: httpx2.Client, run: Callable[[Coroutine[Any, Any, T]], T]
    ) -> None:
        self.steps = steps
        self._http = http
        self._run: Callable[[Coroutine[Any, Any, Any]], Any] = run
        connectors = (BatchEndpointConnector(), UploadConnector(), DownloadConnector())
        self._connectors: dict[str, BatchflowConnector] = {c.task_type: c for c in connectors}

    def create(self, task: Task) -> bytes:
        """Returns what Flyte keeps. Everything goes over the wire's format, both ways."""
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

    def get(self, task_type: str, meta: bytes) -> Answer:
        """What the connector says of a task."""
        found = self._run(self._connectors[task_type].get(JobMeta.decode(meta)))
        resource = self._run(found.to_flyte_idl())
        return Answer(TaskExecution.Phase.Name(resource.phase), resource.message)

    def delete(self, task_type: str, meta: bytes) -> None:
        """Flyte no longer wants it."""
        self._run(self._connectors[task_type].delete(JobMeta.decode(meta)))

    def step(self, meta: bytes) -> None:
        """A worker's step of a job."""
        self.steps.step(JobMeta.decode(meta).job_id)

    def asked(self) -> dict[str, Any]:
        """How often OpenAI was asked what, which files and which batches it got."""
        answer = self._http.get("/simulator/stats")
        stats: dict[str, Any] = answer.raise_for_status().json()
        return stats

    @contextmanager
    def nothing_else_stops(self, good: Task) -> Iterator[None]:
        """In the block OpenAI isn't asked anything; a good task from before it succeeds after."""
        meta = self.create(good)
        before = self.asked()
        yield
        assert self.asked() == before, "the bad input reached OpenAI"
        assert self.get(good.task_type, meta).phase == "QUEUED"
        self.step(meta)
        assert self.get(good.task_type, meta) == Answer("SUCCEEDED", "")


@contextmanager
def running_bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    """Everything for the time of a block: environment, emulator, connectors, workers."""
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
        _forget()
        try:
            yield Bench(_steps(emulator, f"org-{key_prefix}"), http, runner.run)
        finally:
            runner.run(_hang_up())
            _forget()


def clean(message: str) -> bool:
    """Whether a message may be shown to anybody."""
    lines = message.split("\n")
    return (
        0 < len(message.encode()) <= _LONGEST_MESSAGE
        and all(line.isprintable() and line for line in lines)
        and (message.endswith(".") or len(lines) > 1)
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
    """A value as flytekit sends a dict; bytes stay as they are."""
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


def _steps(emulator: Emulator, organization: str) -> Steps:
    settings, notes = load_settings(), Notes()
    return Steps(Runtime(settings, connect(settings), notes), emulator, organization, notes)


def _forget() -> None:
    """Whoever is next reads its own environment."""
    load_settings.cache_clear()
    sender.cache_clear()
    client.cached_sdk_client.cache_clear()


async def _hang_up() -> None:
    await connections().store.redis.aclose()
