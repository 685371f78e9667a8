"""Callers of a connector over gRPC, from one process over one channel, as FlytePropeller calls."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio
from flyteidl.admin.agent_pb2 import (
    CreateTaskRequest,
    CreateTaskResponse,
    GetTaskRequest,
    GetTaskResponse,
)
from flyteidl.core.execution_pb2 import TaskExecution
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

_GET = "/flyteidl.service.AsyncAgentService/GetTask"
_CREATE = "/flyteidl.service.AsyncAgentService/CreateTask"
_CONNECT_S = 20.0
_ANSWER_S = 10.0


@dataclass
class Load:
    """What came of many calls."""

    #: How long all of it took, the last answer included.
    elapsed_s: float = 0.0
    #: Of the calls that were answered, seconds.
    latencies_s: list[float] = field(default_factory=list)
    #: The others, by gRPC's status.
    failed: list[str] = field(default_factory=list)
    #: After which a call was given up; None for never.
    deadline_s: float | None = None

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.elapsed_s if self.elapsed_s else 0.0


class Asker:
    """Asks about one task at a time."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._call = _prepared(self._channel, _GET, GetTaskResponse)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def phase(self, request: bytes) -> str:
        """The phase that the connector answers, such as ``RUNNING``."""
        answer = await self._call(request, timeout=_ANSWER_S)
        return str(TaskExecution.Phase.Name(answer.resource.phase))


def get_requests(metas: Sequence[bytes], task_type: str) -> list[bytes]:
    """A ``GetTask`` for each task."""
    return [
        GetTaskRequest(
            task_type=task_type, task_category={"name": task_type}, resource_meta=meta
        ).SerializeToString()
        for meta in metas
    ]


async def ask_on(
    address: str, requests: Sequence[bytes], *, callers: int, duration_s: float
) -> Load:
    """``GetTask`` by so many callers at once, each asking again when it has its answer.

    They begin no call after ``duration_s`` and wait for those that are out.
    """
    load = Load()
    async with grpc.aio.insecure_channel(address) as channel:
        call = _prepared(channel, _GET, GetTaskResponse)
        following = itertools.cycle(requests)
        # Connects, and lets the server import what it imports late.
        await call(next(following), timeout=_CONNECT_S, wait_for_ready=True)
        begun_at = time.perf_counter()

        async def caller() -> None:
            while time.perf_counter() - begun_at < duration_s:
                await _timed(call, next(following), load)

        await asyncio.gather(*(caller() for _ in range(callers)))
        load.elapsed_s = time.perf_counter() - begun_at
    return load


async def ask_each(address: str, requests: Sequence[bytes]) -> Load:
    """One ``GetTask`` for each of the tasks, all at once."""
    load = Load()
    async with grpc.aio.insecure_channel(address) as channel:
        call = _prepared(channel, _GET, GetTaskResponse)
        await channel.channel_ready()
        begun_at = time.perf_counter()
        await asyncio.gather(*(_timed(call, request, load) for request in requests))
        load.elapsed_s = time.perf_counter() - begun_at
    return load


async def create_all(
    address: str, requests: Sequence[CreateTaskRequest], *, deadline_s: float
) -> tuple[Load, list[bytes]]:
    """``CreateTask`` for all of them at once; also returns what Flyte would keep of each."""
    load, metas = Load(deadline_s=deadline_s), []
    messages = [request.SerializeToString() for request in requests]
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        call = _prepared(channel, _CREATE, CreateTaskResponse)
        begun_at = time.perf_counter()

        async def caller(message: bytes) -> None:
            answer = await _timed(call, message, load)
            if answer is not None:
                load.elapsed_s = time.perf_counter() - begun_at
                metas.append(answer.resource_meta)

        await asyncio.gather(*(caller(message) for message in messages))
    return load, metas


def _prepared(
    channel: grpc.aio.Channel, method: str, answer: type[M]
) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, M]":
    """A call whose request is serialized already: the callers share the machine."""
    return channel.unary_unary(method, response_deserializer=answer.FromString)


async def _timed(
    call: "grpc.aio.UnaryUnaryMultiCallable[bytes, M]", message: bytes, load: Load
) -> M | None:
    begun_at = time.perf_counter()
    try:
        answer = await call(message, timeout=load.deadline_s)
    except grpc.aio.AioRpcError as error:
        load.failed.append(error.code().name)
        return None
    load.latencies_s.append(time.perf_counter() - begun_at)
    return answer
