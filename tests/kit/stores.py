"""The blocking and the asyncio store, over fakeredis and a real Redis, behind one interface."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import fakeredis
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from batchflow.jobs import Job, JobRequest
from batchflow.states import JobKind, JobState
from batchflow.store import AsyncJobStore, JobStore, keys, records
from batchflow.store.command import Command
from batchflow.store.records import UpdateOutcome
from tests.kit.job_requests import a_job_request

T = TypeVar("T")

#: Far enough in the future that it does not come during a test.
LATER_S = 1_000


def end_earlier(redis: Any, key_prefix: str, job_id: str, by_s: float) -> None:
    """Let a job that Flyte has not collected have ended earlier."""
    redis.zincrby(keys.full(key_prefix, keys.UNCOLLECTED), -by_s, job_id)


class CommandRunner(Protocol):
    """Runs a command and waits for its result."""

    def run(self, command: Command[T]) -> T: ...


@dataclass(frozen=True)
class BlockingAsyncStore:
    """The asyncio store for tests that have no event loop."""

    store: AsyncJobStore
    runner: asyncio.Runner

    def run(self, command: Command[T]) -> T:
        return self.runner.run(self.store.run(command))


@dataclass(frozen=True)
class StoreHarness:
    """A store under test, shortcuts for its commands, and direct access to its keys in Redis."""

    commands: CommandRunner
    redis: Redis
    prefix: str

    def run(self, command: Command[T]) -> T:
        return self.commands.run(command)

    def job(self, job_request: JobRequest) -> Job:
        job = self.run(records.get(job_request.job_id))
        assert job is not None
        return job

    def created(
        self, kind: JobKind = JobKind.BATCH, *, due_in_s: float = LATER_S, **fields: Any
    ) -> JobRequest:
        job_request = a_job_request(kind, **fields)
        assert self.run(records.create(job_request, due_in_s=due_in_s)).new
        return job_request

    def changed(self, job_request: JobRequest, **change: Any) -> UpdateOutcome:
        return self.run(records.update(job_request.job_id, **{"source": "test"} | change)).outcome

    def in_state(self, state: JobState, kind: JobKind = JobKind.BATCH, **fields: Any) -> JobRequest:
        job_request = self.created(kind, **fields)
        assert self.changed(job_request, to=state) is UpdateOutcome.APPLIED
        return job_request

    def raw(self, name: str) -> Any:
        key, redis = f"{self.prefix}:{name}", cast(Any, self.redis)
        match redis.type(key):
            case "hash":
                return redis.hgetall(key)
            case "zset":
                return dict(redis.zrange(key, 0, -1, withscores=True))
            case "stream":
                return redis.xrange(key)
            case _:
                return redis.get(key)

    def due(self) -> dict[str, float]:
        return cast(dict[str, float], self.raw(keys.DUE) or {})

    def events(self) -> list[dict[str, str]]:
        return [fields for _, fields in self.raw(keys.EVENTS) or []]

    def everything(self) -> dict[str, Any]:
        found = sorted(str(key) for key in self.redis.scan_iter(f"{self.prefix}:*"))
        return {key: self.raw(key.removeprefix(f"{self.prefix}:")) for key in found}


@contextmanager
def blocking_async_store(redis: AsyncRedis, prefix: str) -> Iterator[BlockingAsyncStore]:
    with asyncio.Runner() as runner:
        yield BlockingAsyncStore(AsyncJobStore(redis, prefix), runner)
        runner.run(redis.aclose())


@contextmanager
def over_fakeredis(prefix: str, blocking: bool) -> Iterator[StoreHarness]:
    server = fakeredis.FakeServer()

    def client(kind: Callable[..., Any]) -> Any:
        return kind(server=server, decode_responses=True)

    with closing(cast(Redis, client(fakeredis.FakeRedis))) as redis:
        if blocking:
            yield StoreHarness(JobStore(redis, prefix), redis, prefix)
        else:
            with blocking_async_store(client(fakeredis.FakeAsyncRedis), prefix) as commands:
                yield StoreHarness(commands, redis, prefix)
        assert all(str(key).startswith(f"{prefix}:") for key in redis.scan_iter())


@contextmanager
def over_redis(prefix: str, blocking: bool, url: str) -> Iterator[StoreHarness]:
    # The store's user may touch no key outside of its namespace.
    user: dict[str, Any] = {"username": prefix, "password": "secret", "decode_responses": True}
    with closing(Redis.from_url(url, decode_responses=True)) as redis:
        redis.acl_setuser(
            prefix, enabled=True, passwords=["+secret"], keys=[f"{prefix}:*"], categories=["+@all"]
        )
        if blocking:
            with closing(Redis.from_url(url, **user)) as own:
                yield StoreHarness(JobStore(own, prefix), redis, prefix)
        else:
            with blocking_async_store(AsyncRedis.from_url(url, **user), prefix) as commands:
                yield StoreHarness(commands, redis, prefix)
        redis.acl_deluser(prefix)
