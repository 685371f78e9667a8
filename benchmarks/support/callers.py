"""Call a connector over one gRPC channel, as FlytePropeller does."""

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
_RESPONSE_S = 10.0


@dataclass
class Load:
    """The results of many calls."""

    #: From the first call to the last response.
    elapsed_s: float = 0.0
    #: Response times of the successful calls, in seconds.
    latencies_s: list[float] = field(default_factory=list)
    #: The gRPC status codes of the failed calls.
    failed: list[str] = field(default_factory=list)
    #: The deadline of each call; None for no deadline.
    deadline_s: float | None = None

    @property
    def per_second(self) -> float:
        """Successful calls per second."""
        return len(self.latencies_s) / self.elapsed_s if self.elapsed_s else 0.0


class StatusClient:
    """Checks one task at a time."""

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
        """Return the phase of a task, such as ``RUNNING``."""
        answer = await self._call(request, timeout=_RESPONSE_S)
        return str(TaskExecution.Phase.Name(answer.resource.phase))


def get_requests(metas: Sequence[bytes], task_type: str) -> list[bytes]:
    """Return a serialized ``GetTask`` for each task."""
    return [
        GetTaskRequest(
            task_type=task_type, task_category={"name": task_type}, resource_meta=meta
        ).SerializeToString()
        for meta in metas
    ]


async def get_repeatedly(
    address: str, requests: Sequence[bytes], *, callers: int, duration_s: float
) -> Load:
    """Send ``GetTask`` with concurrent callers, each as soon as its previous call returned.

    They start no call after ``duration_s``, and wait for the calls in progress.
    """
    load = Load()
    async with grpc.aio.insecure_channel(address) as channel:
        call = _prepared(channel, _GET, GetTaskResponse)
        cycle = itertools.cycle(requests)
        # Connect, and let the server finish its lazy imports.
        await call(next(cycle), timeout=_CONNECT_S, wait_for_ready=True)
        started_at = time.perf_counter()

        async def caller() -> None:
            while time.perf_counter() - started_at < duration_s:
                await _timed(call, next(cycle), load)

        await asyncio.gather(*(caller() for _ in range(callers)))
        load.elapsed_s = time.perf_counter() - started_at
    return load


async def get_each(address: str, requests: Sequence[bytes]) -> Load:
    """Send one ``GetTask`` for each task, all at once."""
    load = Load()
    async with grpc.aio.insecure_channel(address) as channel:
        call = _prepared(channel, _GET, GetTaskResponse)
        await channel.channel_ready()
        started_at = time.perf_counter()
        await asyncio.gather(*(_timed(call, request, load) for request in requests))
        load.elapsed_s = time.perf_counter() - started_at
    return load


async def create_all(
    address: str, requests: Sequence[CreateTaskRequest], *, deadline_s: float
) -> tuple[Load, list[bytes]]:
    """Send all ``CreateTask`` at once; also return the ResourceMeta of each."""
    load, metas = Load(deadline_s=deadline_s), []
    messages = [request.SerializeToString() for request in requests]
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        call = _prepared(channel, _CREATE, CreateTaskResponse)
        started_at = time.perf_counter()

        async def caller(message: bytes) -> None:
            answer = await _timed(call, message, load)
            if answer is not None:
                load.elapsed_s = time.perf_counter() - started_at
                metas.append(answer.resource_meta)

        await asyncio.gather(*(caller(message) for message in messages))
    return load, metas


def _prepared(
    channel: grpc.aio.Channel, method: str, answer: type[M]
) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, M]":
    """Return a call that takes serialized requests, which saves the callers CPU time."""
    return channel.unary_unary(method, response_deserializer=answer.FromString)


async def _timed(
    call: "grpc.aio.UnaryUnaryMultiCallable[bytes, M]", message: bytes, load: Load
) -> M | None:
    started_at = time.perf_counter()
    try:
        answer = await call(message, timeout=load.deadline_s)
    except grpc.aio.AioRpcError as error:
        load.failed.append(error.code().name)
        return None
    load.latencies_s.append(time.perf_counter() - started_at)
    return answer
