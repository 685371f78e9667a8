"""Counters and heartbeats: no work fails because of them or waits for them."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from batchflow_workers import heartbeat
from batchflow_workers.heartbeat import Heartbeat
from batchflow_workers.runtime import Runtime

from batchflow.openai_client.calls import CallOutcome, Operation
from batchflow.overview.health import worker_is_alive
from batchflow.queue import Sender, make_app
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.store import JobStore, connect, heartbeats, keys, metrics
from batchflow.store.heartbeats import Worker
from tests.kit.processes import until

WORKER = "celery@here"


@pytest.fixture
def store(settings: Callable[..., Settings]) -> Iterator[JobStore]:
    store = connect(settings())
    with store.redis:
        yield store


def runtime_of(settings: Settings) -> Runtime:
    return Runtime(settings, connect(settings), Sender(make_app(settings)))


def known(store: JobStore) -> list[Worker]:
    return store.run(heartbeats.workers())


def heartbeat_threads() -> list[threading.Thread]:
    """The threads that write heartbeats."""
    return [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


# Counters


def test_counters_add_up(settings: Callable[..., Settings]) -> None:
    runtime = runtime_of(settings())
    with runtime.store.redis:
        for _ in range(3):
            runtime.count(metrics.count("tokens", "input", by=100))
        runtime.count(metrics.count("a|b", "c|d"))
        counters = runtime.store.run(metrics.counters())
    assert counters[("tokens", "input")] == 300
    # A separator in a label does not split it.
    assert ("a", "b", "c/d") in counters


def test_a_call_succeeds_without_its_counter(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = runtime_of(settings())
    with runtime.store.redis as redis:
        metrics = keys.full(runtime.settings.key_prefix, keys.METRICS)
        redis.hset(metrics, "openai_calls|batches.create|ok", "garbage")
        runtime._count_call(Operation.BATCHES_CREATE, CallOutcome.OK, 0.1)
    assert "Not counted" in caplog.text


def test_a_call_succeeds_without_redis(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = runtime_of(settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    runtime._count_call(Operation.BATCHES_CREATE, CallOutcome.OK, 0.1)
    assert "Not counted: Redis can't be reached" in caplog.text
    assert not any(record.exc_info for record in caplog.records)


# Heartbeats


def test_a_worker_is_known_with_its_queues_until_it_ends(store: JobStore) -> None:
    queues = ["poll", "submit"]
    beats = Heartbeat(store, lambda: queues)
    beats.beat(WORKER)
    [worker] = until(lambda: known(store), "the heartbeat")
    assert (worker.name, worker.queues) == (WORKER, ("poll", "submit"))
    assert worker_is_alive(worker.seen_s, worker.seen_s + 59)
    assert not worker_is_alive(worker.seen_s, worker.seen_s + 61)
    beats.stop(WORKER)
    assert known(store) == []


def test_not_every_celery_heartbeat_is_written(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Heartbeat(store, lambda: ["poll"])
    beats.beat(WORKER)
    [first] = until(lambda: known(store), "the heartbeat")
    until(lambda: not heartbeat_threads(), "the end of its thread")
    for _ in range(20):
        beats.beat(WORKER)
    assert heartbeat_threads() == []
    assert known(store) == [first]
    monkeypatch.setattr(heartbeat, "_INTERVAL_S", 0.0)
    beats.beat(WORKER)
    until(lambda: known(store) != [first], "the next heartbeat")


def test_a_worker_does_not_wait_for_a_hanging_redis(
    settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(heartbeat, "_INTERVAL_S", 0.0)
    caplog.set_level(logging.WARNING)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0?socket_timeout=0.3"
        store = connect(settings(redis_url=url))
        beats = Heartbeat(store, lambda: ["poll"])
        before = set(heartbeat_threads())
        began = time.monotonic()
        for _ in range(100):
            beats.beat(WORKER)
        assert time.monotonic() - began < 0.2
        assert len(set(heartbeat_threads()) - before) == 1
    # The server has stopped.
    until(lambda: not heartbeat_threads(), "the end of its thread")
    assert "No heartbeat: Redis can't be reached" in caplog.text
    beats.stop(WORKER)
