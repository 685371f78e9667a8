"""The stores as clients: round trips, errors, scripts."""

import asyncio
import re
import threading
import time
from contextlib import closing
from uuid import uuid4

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from batchflow.errors import StoreUnavailable
from batchflow.jobs import random_job_id
from batchflow.states import JobState
from batchflow.store import AsyncJobStore, JobStore, index, records
from batchflow.store.command import Command
from batchflow.store.job_store import script_names, script_source
from tests.kit.job_requests import a_job_request
from tests.kit.stores import LATER_S, StoreHarness, blocking_async_store

EARLIER_S = -1_000


def test_many_loads_share_a_round_trip(redis_url: str, key_prefix: str) -> None:
    async def load() -> None:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as redis:
            store = AsyncJobStore(redis, key_prefix)
            job_requests = [a_job_request() for _ in range(200)]
            for job_request in job_requests:
                await store.run(records.create(job_request, due_in_s=0))
            before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            found = await asyncio.gather(
                *(store.job_status(job_request.job_id) for job_request in job_requests)
            )
            assert all(status and status.state is JobState.QUEUED for status in found)
            after = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            assert after - before <= 5
            assert await store.job_status(random_job_id()) is None

    asyncio.run(load())


def test_every_load_fails_when_redis_is_unavailable(key_prefix: str) -> None:
    async def load() -> None:
        async with AsyncRedis.from_url("redis://127.0.0.1:1/0", decode_responses=True) as redis:
            store = AsyncJobStore(redis, key_prefix)
            loads = (store.job_status(random_job_id()) for _ in range(3))
            found = await asyncio.gather(*loads, return_exceptions=True)
            assert [type(error) for error in found] == [StoreUnavailable] * 3
            with pytest.raises(StoreUnavailable):
                await store.job_status(random_job_id())

    asyncio.run(load())


@pytest.mark.parametrize("name", script_names())
def test_every_key_of_a_script_is_declared(name: str) -> None:
    code = re.sub(r"--.*", "", script_source(name))
    calls = re.findall(r"redis\.p?call\('(\w+)'\s*(?:,\s*([\w.\[\]]+))?", code)
    assert calls
    undeclared = [call for call in calls if call[0] != "TIME" and not call[1].startswith("KEYS[")]
    assert not undeclared
    assert "redis.pcall" not in code


def test_time_is_redis_time(store: StoreHarness) -> None:
    assert store.run(records.time()) == pytest.approx(time.time(), abs=5)


def test_an_unavailable_redis_is_one_error(key_prefix: str, redis_url: str) -> None:
    unavailable = Redis.from_url("redis://:hunter2@127.0.0.1:1/0", decode_responses=True)
    with closing(unavailable), pytest.raises(StoreUnavailable) as caught:
        JobStore(unavailable, key_prefix).run(index.counts())
    assert isinstance(caught.value.__cause__, RedisConnectionError)
    assert "hunter2" not in str(caught.value)
    with (
        blocking_async_store(AsyncRedis.from_url("redis://127.0.0.1:1/0"), key_prefix) as commands,
        pytest.raises(StoreUnavailable),
    ):
        commands.run(records.create(a_job_request(), due_in_s=0))


def test_a_redis_that_refuses_writes_is_unavailable(redis_url: str, key_prefix: str) -> None:
    with closing(Redis.from_url(redis_url, decode_responses=True)) as redis:
        store = JobStore(redis, key_prefix)
        redis.config_set("min-replicas-to-write", 1)
        try:
            with pytest.raises(StoreUnavailable, match="Redis refuses writes"):
                store.run(records.create(a_job_request(), due_in_s=0))
            assert store.run(index.recent(1)) == []
        finally:
            redis.config_set("min-replicas-to-write", 0)
        assert store.run(records.create(a_job_request(), due_in_s=0)).new


def test_many_commands_share_a_round_trip(redis_url: str, key_prefix: str) -> None:
    with closing(Redis.from_url(redis_url, decode_responses=True)) as redis:
        store = JobStore(redis, key_prefix)
        job_requests = [a_job_request() for _ in range(50)]
        # Redis has to load the scripts.
        redis.script_flush()
        created = store.run_all(
            [records.create(job_request, due_in_s=0) for job_request in job_requests]
        )
        assert all(answer.new for answer in created)
        found = store.run_all(
            [records.get(job_request.job_id) for job_request in (*job_requests, a_job_request())]
        )
        assert [job and job.id for job in found] == [
            *(job_request.job_id for job_request in job_requests),
            None,
        ]
        assert store.run_all(list[Command[bool]]()) == []


def test_each_due_job_is_claimed_by_one_worker(redis_url: str, key_prefix: str) -> None:
    taken: list[str] = []
    with closing(Redis.from_url(redis_url, decode_responses=True)) as redis:
        store = JobStore(redis, key_prefix)
        job_requests = [a_job_request() for _ in range(200)]
        store.run_all(
            [records.create(job_request, due_in_s=EARLIER_S) for job_request in job_requests]
        )

        def work() -> None:
            while ids := store.run(records.claim_due(7, hold_s=LATER_S)):
                taken.extend(ids)

        threads = [threading.Thread(target=work, name=f"worker {uuid4()}") for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == sorted(job_request.job_id for job_request in job_requests)
