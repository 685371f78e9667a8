"""The calls of Flyte's backend to a connector over gRPC, and their parameters."""

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import msgpack
import pytest
from flyteidl.admin.agent_pb2 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    ListAgentsRequest,
    TaskCategory,
    TaskExecutionMetadata,
)
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.service.agent_pb2_grpc import AgentMetadataServiceStub, AsyncAgentServiceStub
from flytekit import FlyteContextManager
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.type_engine import TypeEngine
from flytekit.tools.translator import get_serializable
from flytekit.types.file import JSONLFile
from google.protobuf.json_format import MessageToDict

#: Flyte's default deadline for a call, in seconds.
PATIENCE_S = 10.0
ENDED = frozenset({"SUCCEEDED", "FAILED", "RETRYABLE_FAILED", "ABORTED"})
#: How workflows are registered.
SETTINGS = SerializationSettings(
    project="shop",
    domain="development",
    version="v1",
    env={},
    image_config=ImageConfig(default_image=Image(name="default", fqn="image", tag="v1")),
)

#: The pause between two gets of a task.
_GET_EVERY_S = 0.1


@dataclass(frozen=True)
class Node:
    """A node of an execution: where a task runs, and which attempt it is."""

    folder: Path
    execution: str = field(default_factory=lambda: f"e{uuid.uuid4().hex[:12]}")
    node: str = "n0"
    attempt: int = 0
    #: Position in a map task.
    index: int | None = None

    @property
    def output_prefix(self) -> str:
        """The location of the outputs, which ends in the attempt."""
        element = "" if self.index is None else f"/{self.index}"
        return f"{self.folder}/{self.execution}/{self.node}/data{element}/{self.attempt}"

    @property
    def metadata(self) -> TaskExecutionMetadata:
        """The metadata that Flyte sends to a connector."""
        execution = WorkflowExecutionIdentifier(
            project="shop", domain="development", name=self.execution
        )
        node = NodeExecutionIdentifier(node_id=self.node, execution_id=execution)
        return TaskExecutionMetadata(
            task_execution_id=TaskExecutionIdentifier(
                node_execution_id=node, retry_attempt=self.attempt
            ),
            namespace="shop-development",
        )

    def again(self) -> Self:
        """The next attempt."""
        return replace(self, attempt=self.attempt + 1)


@dataclass
class Answer:
    """A connector's response about a task."""

    phase: str
    message: str
    custom_info: dict[str, Any]
    links: dict[str, str]
    #: The links with ``ShowWhilePending``.
    pending_links: dict[str, str]
    outputs: LiteralMap

    @property
    def result(self) -> Any:
        """The output as a Python value: str, or dict."""
        scalar = self.outputs.literals["result"].scalar
        if scalar.HasField("binary"):
            assert scalar.binary.tag == "msgpack"
            return msgpack.unpackb(scalar.binary.value)
        return scalar.primitive.string_value


@dataclass
class Run:
    """A task that has ended: its last answer, and the phases and messages before it."""

    answer: Answer
    seen: list[tuple[str, str]]

    @property
    def phases(self) -> list[str]:
        """The phases in their order, without repetitions."""
        phases = [phase for phase, _ in self.seen]
        return [p for n, p in enumerate(phases) if n == 0 or phases[n - 1] != p]

    @property
    def messages(self) -> list[str]:
        """All messages."""
        return [message for _, message in self.seen if message]


@dataclass(frozen=True)
class Task:
    """A task that a connector has accepted."""

    client: "FlyteClient"
    task_type: str
    meta: bytes

    def get(self, timeout_s: float = PATIENCE_S) -> Answer:
        """Get it once."""
        return self.client.get(self.meta, self.task_type, timeout_s=timeout_s)

    def delete(self, timeout_s: float = PATIENCE_S) -> None:
        """Delete it, which cancels it after a delay."""
        self.client.delete(self.meta, self.task_type, timeout_s=timeout_s)

    def until(
        self, condition: Callable[[Answer], object], what: str, timeout_s: float = 30.0
    ) -> Answer:
        """Get it until a condition holds for the answer; fails if it ends before that."""
        deadline = time.monotonic() + timeout_s
        answer = self.get()
        while not condition(answer):
            if time.monotonic() > deadline or answer.phase in ENDED:
                pytest.fail(f"Waited in vain for {what}; the last answer is {answer}")
            time.sleep(_GET_EVERY_S)
            answer = self.get()
        return answer

    def follow(self, timeout_s: float = 40.0) -> Run:
        """Get it until it ends, and check that its phase never goes back."""
        deadline = time.monotonic() + timeout_s
        seen: list[tuple[str, str]] = []
        while True:
            answer = self.get()
            step = (answer.phase, answer.message)
            if not seen or seen[-1] != step:
                seen.append(step)
            if answer.phase in ENDED:
                break
            if time.monotonic() > deadline:
                pytest.fail(f"The task did not end within {timeout_s:g} s; it went {seen}")
            time.sleep(_GET_EVERY_S)
        assert not went_back([phase for phase, _ in seen]), f"the phase went back: {seen}"
        return Run(answer, seen)

    def fails(self, timeout_s: float = 40.0) -> str:
        """Wait for its failure and return the message."""
        run = self.follow(timeout_s)
        assert run.answer.phase == "FAILED", run.seen
        return run.answer.message

    def succeeds(self, timeout_s: float = 40.0) -> Any:
        """Wait for its success and return the result."""
        run = self.follow(timeout_s)
        assert run.answer.phase == "SUCCEEDED", run.seen
        return run.answer.result


class FlyteClient:
    """Calls a connector as Flyte's backend does, by default as it does without configuration."""

    def __init__(self, address: str, service_config: Mapping[str, Any] | None = None) -> None:
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.service_config", json.dumps(service_config or {})),
            ],
        )
        self._tasks = AsyncAgentServiceStub(self._channel)
        self._metadata = AgentMetadataServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def task_types(self, timeout_s: float = PATIENCE_S) -> dict[str, set[str]]:
        """Each connector's name, and the task types that it serves."""
        agents = self._metadata.ListAgents(ListAgentsRequest(), timeout=timeout_s).agents
        return {
            agent.name: {category.name for category in agent.supported_task_categories}
            for agent in agents
        }

    def create(
        self,
        template: Any,
        inputs: LiteralMap,
        node: Node,
        *,
        identified: bool = True,
        timeout_s: float = PATIENCE_S,
    ) -> Task:
        """Create a task."""
        request = CreateTaskRequest(
            inputs=inputs,
            template=template,
            output_prefix=node.output_prefix,
            task_execution_metadata=node.metadata if identified else None,
        )
        answer = self._tasks.CreateTask(request, timeout=timeout_s)
        return Task(self, template.type, answer.resource_meta)

    def get(
        self,
        meta: bytes,
        task_type: str,
        *,
        timeout_s: float = PATIENCE_S,
    ) -> Answer:
        """Get a task."""
        request = GetTaskRequest(
            task_type=task_type, resource_meta=meta, task_category=TaskCategory(name=task_type)
        )
        resource = self._tasks.GetTask(request, timeout=timeout_s).resource
        return Answer(
            phase=TaskExecution.Phase.Name(resource.phase),
            message=resource.message,
            custom_info=MessageToDict(resource.custom_info),
            links={link.name: link.uri for link in resource.log_links},
            pending_links={
                link.name: link.uri for link in resource.log_links if link.ShowWhilePending
            },
            outputs=resource.outputs,
        )

    def delete(self, meta: bytes, task_type: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Delete a task, which cancels it after a delay."""
        request = DeleteTaskRequest(
            task_type=task_type, resource_meta=meta, task_category=TaskCategory(name=task_type)
        )
        self._tasks.DeleteTask(request, timeout=timeout_s)


def went_back(phases: Sequence[str]) -> bool:
    """Whether a task that was RUNNING is said not to have begun. After RUNNING,
    WAITING_FOR_RESOURCES means that it waits for an operator."""
    begun = phases.index("RUNNING") if "RUNNING" in phases else len(phases)
    return "INITIALIZING" in phases[begun:] or "QUEUED" in phases


def template_of(task: Any) -> Any:
    """The template of a flytekit task, as it is registered."""
    return get_serializable(OrderedDict(), SETTINGS, task).template.to_flyte_idl()


def inputs_of(**values: Any) -> LiteralMap:
    """Python values as literals, converted by flytekit."""
    context = FlyteContextManager.current_context()
    literals = {}
    for name, value in values.items():
        expected = TypeEngine.to_literal_type(type(value))
        literal = TypeEngine.to_literal(context, value, type(value), expected)
        literals[name] = literal.to_flyte_idl()
    return LiteralMap(literals=literals)


def file_inputs(uri: str) -> LiteralMap:
    """The inputs of an upload task for the file at ``uri``."""
    literals = LiteralMap()
    blob = literals.literals["jsonl_in"].scalar.blob
    blob.uri = uri
    blob.metadata.type.format = JSONLFile.extension()
    return literals
