"""The event stream over HTTP, with a real server and a real Redis that fails or restarts."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchflow.gateway.api import event_fanout, event_stream
from batchflow.jobs import JobRequest
from batchflow.settings import Settings
from batchflow.states import JobKind, JobState
from batchflow.store import JobStore, connect, events, keys, records
from batchflow.store.command import Command
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.job_requests import a_job_request
from tests.kit.listener import Event, Listener, StreamRequest
from tests.kit.processes import Process, RedisServer, until

MakeSettings = Callable[..., Settings]


def created(store: JobStore, kind: JobKind = JobKind.BATCH) -> JobRequest:
    job_request = a_job_request(kind)
    assert store.run(records.create(job_request, due_in_s=1_000)).new
    return job_request


def update(
    store: JobStore, job_request: JobRequest, number: int, *, first: int = 0, padding: str = ""
) -> None:
    """Write ``number`` transitions of a job in one round trip."""
    store.run_all(
        [
            records.update(
                job_request.job_id, source="test", fields={"message": f"number {serial}{padding}"}
            )
            for serial in range(first, first + number)
        ]
    )


def all_ids(store: JobStore, after: str) -> list[str]:
    """The ids of all entries in Redis after a position, which a listener must have received."""
    found = store.run(events.entries(events.EntryId.parse(after), 1_000_000))
    return [str(entry.id) for entry in found]


def numbers(received: list[Event]) -> list[str]:
    return [event.data["message"] for event in received]


@contextmanager
def listening(gateway: Gateway) -> Iterator[Listener]:
    """Open a listener at the end of the stream, without events."""
    newest = str(gateway.store.run(events.newest()) or events.BEGINNING)
    with Listener(gateway.url) as listener:
        until(lambda: listener.last_id == newest, "the stream to begin", every_s=0.005)
        listener.events.clear()
        yield listener


# Events


def test_a_transition_is_sent_as_it_happens(gateway: Gateway) -> None:
    before = created(gateway.store)
    with listening(gateway) as listener:
        assert listener.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert listener.response.headers["Cache-Control"] == "no-store"
        assert listener.response.headers["X-Accel-Buffering"] == "no"
        assert listener.retry_ms
        job_request = created(gateway.store, JobKind.UPLOAD)
        gateway.store.run(
            records.update(
                job_request.job_id,
                source="upload",
                to=JobState.FAILED,
                fields={"message": "größer\nals\r200 MB 🙂"},
            )
        )
        listener.until_it_has(2)
    assert before.job_id not in {event.data["job_id"] for event in listener.events}
    assert listener.kinds == ["transition"] * 2
    new, failed = (event.data for event in listener.events)
    assert (new["before"], new["state"], new["source"]) == (None, "queued", "create")
    job = gateway.store.run(records.get(job_request.job_id))
    assert job is not None
    at = datetime.fromisoformat(failed.pop("at"))
    # The event's time is that of its entry in the stream, which Redis appends a moment later.
    assert abs(at - job.updated_at) < timedelta(seconds=5)
    assert failed == {
        "job_id": job_request.job_id,
        "kind": "upload",
        "before": "queued",
        "state": "failed",
        "openai_status": "",
        "message": "größer\nals\r200 MB 🙂",
        "source": "upload",
    }


def test_a_stream_can_be_restricted_to_a_job(gateway: Gateway) -> None:
    wanted, other = created(gateway.store), created(gateway.store)
    with listening(gateway), Listener(gateway.url, StreamRequest(job_id=wanted.job_id)) as listener:
        for serial in range(10):
            update(gateway.store, other, 3, first=serial)
            update(gateway.store, wanted, 1, first=serial)
        listener.until_it_has(10)
        assert numbers(listener.events) == [f"number {serial}" for serial in range(10)]
        assert {event.data["job_id"] for event in listener.events} == {wanted.job_id}


def test_an_unreadable_entry_is_skipped(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    job_request = created(gateway.store)
    with listening(gateway) as listener:
        gateway.store.run(Command("XADD", [keys.EVENTS], ["*", "job_id", "x", "state", "?"], str))
        update(gateway.store, job_request, 1)
        listener.until_it_has(1)
        assert numbers(listener.events) == ["number 0"]
    assert "check: before, kind" in caplog.text


def test_all_clients_receive_the_same_events(gateway: Gateway) -> None:
    job_request = created(gateway.store)
    with ExitStack() as stack:
        listeners = [stack.enter_context(listening(gateway)) for _ in range(10)]
        place = listeners[0].last_id
        update(gateway.store, job_request, 300)
        expected = all_ids(gateway.store, place)
        for listener in listeners:
            assert listener.until_it_has(300).ids == expected


# Reconnecting


@pytest.mark.parametrize("way", ["header", "query", "both"])
def test_a_client_continues_after_its_last_event(gateway: Gateway, way: str) -> None:
    job_request = created(gateway.store)
    with listening(gateway) as first:
        place = first.last_id
        update(gateway.store, job_request, 5)
        first.until_it_has(5)
    update(gateway.store, job_request, 5, first=5)
    seen = first.events[2].id
    asked = {
        "header": StreamRequest(header=seen),
        "query": StreamRequest(query=seen),
        # EventSource reconnects to its first URL.
        "both": StreamRequest(header=seen, query=place),
    }
    with Listener(gateway.url, asked[way]) as second:
        second.until_it_has(7)
        assert numbers(second.events) == [f"number {serial}" for serial in range(3, 10)]
        assert second.ids == all_ids(gateway.store, seen)


def test_a_client_without_events_can_continue(gateway: Gateway) -> None:
    job_request = created(gateway.store)
    with listening(gateway) as first:
        pass
    update(gateway.store, job_request, 3)
    with Listener(gateway.url, StreamRequest(first.last_id)) as second:
        second.until_it_has(3)
        assert second.kinds == ["transition"] * 3


def test_each_event_is_received_once_across_reconnects(gateway: Gateway) -> None:
    writers, each = 4, 150
    job_requests = [created(gateway.store) for _ in range(writers)]
    random = Random(11)

    def write(job_request: JobRequest) -> None:
        for serial in range(each):
            update(gateway.store, job_request, 1, first=serial)

    received: list[str] = []
    with listening(gateway) as listener:
        start = place = listener.last_id
    threads = [threading.Thread(target=write, args=[job_request]) for job_request in job_requests]
    for thread in threads:
        thread.start()
    cuts = 0
    while len(received) < writers * each:
        number = min(random.randint(1, 40), writers * each - len(received))
        with Listener(gateway.url, StreamRequest(place), at_most=number) as listener:
            listener.until_it_has(number)
        assert listener.kinds == ["transition"] * len(listener.events)
        received += listener.ids
        place = listener.last_id
        cuts += 1
    for thread in threads:
        thread.join()
    assert cuts > 20
    assert received == all_ids(gateway.store, start)


def test_a_client_can_continue_at_another_gateway(gateway: Gateway, settings: MakeSettings) -> None:
    job_request = created(gateway.store)
    with listening(gateway) as first:
        update(gateway.store, job_request, 3)
        first.until_it_has(3)
    update(gateway.store, job_request, 4, first=3)
    with (
        running_gateway(settings()) as other,
        Listener(other.url, StreamRequest(first.last_id)) as second,
    ):
        update(gateway.store, job_request, 2, first=7)
        second.until_it_has(6)
        assert numbers(second.events) == [f"number {serial}" for serial in range(3, 9)]


def test_entries_that_left_memory_are_read_from_redis(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_fanout, "MAX_KEPT", 20)
    job_request = created(gateway.store)
    with listening(gateway) as first:
        pass
    update(gateway.store, job_request, 1_700)
    with Listener(gateway.url, StreamRequest(first.last_id)) as second:
        second.until_it_has(1_700)
        update(gateway.store, job_request, 30, first=1_700)
        second.until_it_has(1_730)
        assert second.ids == all_ids(gateway.store, first.last_id)


def test_a_slow_client_delays_no_other_and_misses_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_fanout, "MAX_KEPT", 100)
    job_request = created(gateway.store)
    with listening(gateway) as quick, Listener(gateway.url, receive_bytes=65_536) as slow:
        place = quick.last_id
        # Far more than the buffers between the two processes hold.
        for first in range(0, 4_000, 200):
            update(gateway.store, job_request, 200, first=first, padding="x" * 5_000)
        assert quick.until_it_has(4_000).ids == all_ids(gateway.store, place)
        slow.start_reading()
        assert slow.until_it_has(4_000).ids == quick.ids


# Missed entries


def test_a_client_that_missed_deleted_entries_gets_a_reset(gateway: Gateway) -> None:
    job_request = created(gateway.store)
    with listening(gateway) as first:
        pass
    update(gateway.store, job_request, 50)
    gateway.store.run(Command("XTRIM", [keys.EVENTS], ["MAXLEN", "=", 10], int))
    # The first gateway still has the entries in memory.
    with (
        running_gateway(gateway.settings) as fresh,
        Listener(fresh.url, StreamRequest(first.last_id)) as second,
    ):
        second.until_it_has(1)
        assert second.kinds == ["reset"]
        assert "Read the jobs again" in second.events[0].data["message"]
        update(gateway.store, job_request, 2, first=50)
        second.until_it_has(3)
        assert numbers(second.events[1:]) == ["number 50", "number 51"]
    with Listener(gateway.url, StreamRequest(second.events[0].id)) as third:
        third.until_it_has(2)
        assert third.kinds == ["transition"] * 2


@pytest.mark.parametrize("place", ["18446744073709551615-0", "1-0"])
def test_a_position_of_another_redis_gives_a_reset(settings: MakeSettings, place: str) -> None:
    with connect(settings()).redis as client:
        store = JobStore(client, settings().key_prefix)
        job_request = created(store)
        with (
            running_gateway(settings()) as gateway,
            Listener(gateway.url, StreamRequest(place)) as listener,
        ):
            listener.until_it_has(1)
            update(store, job_request, 1)
            listener.until_it_has(2)
            assert listener.kinds == ["reset", "transition"]


def test_a_stream_from_the_beginning_has_all_entries(settings: MakeSettings) -> None:
    with connect(settings()).redis as client:
        store = JobStore(client, settings().key_prefix)
        update(store, created(store), 600)
        with (
            running_gateway(settings()) as gateway,
            Listener(gateway.url, StreamRequest("0-0")) as listener,
        ):
            listener.until_it_has(601)
            assert listener.ids == all_ids(store, "0-0")


def test_emptying_redis_resets_all_clients(gateway: Gateway) -> None:
    job_request = created(gateway.store)
    with listening(gateway) as listener:
        update(gateway.store, job_request, 3)
        listener.until_it_has(3)
        gateway.store.run(Command("DEL", [keys.EVENTS], [], bool))
        update(gateway.store, job_request, 1, first=3)
        listener.until_it_has(4)
        update(gateway.store, job_request, 1, first=4)
        listener.until_it_has(5)
        assert listener.kinds == ["transition"] * 3 + ["reset", "transition"]


def test_the_first_transitions_in_an_empty_redis_are_sent(gateway: Gateway) -> None:
    with listening(gateway) as listener:
        assert listener.last_id == "0-0"
        job_request = created(gateway.store)
        update(gateway.store, job_request, 1)
        listener.until_it_has(2)
        assert listener.kinds == ["transition"] * 2


# Refused requests


@pytest.mark.parametrize(
    "place",
    [
        *("", "x", "$", "0", "1-", "-1-0", "1-0 ", "1-0-0", "18446744073709551616-0"),
        *("1-99999999999999999999", "\u0661-\u0660", "1-0\x00"),
    ],
)
def test_an_invalid_event_id_is_refused(gateway: Gateway, place: str) -> None:
    with gateway.client() as client:
        answer = client.get("/api/events", params={"last_event_id": place})
        assert answer.status_code == 400
        assert "Not a valid event id" in answer.json()["error"]["message"]
        if place.isascii() and place.isprintable() and place == place.strip():
            answer = client.get("/api/events", headers={"Last-Event-ID": place})
            assert answer.status_code == 400


def test_invalid_parameters_are_refused(gateway: Gateway) -> None:
    with gateway.client() as client:
        for asked in ({"headers": {"Last-Event-ID": "1" * 65}}, {"params": {"job_id": "b" * 65}}):
            assert client.get("/api/events", **asked).status_code == 422  # type: ignore[arg-type]  # one or the other
        assert client.get("/api/events", params={"job_id": "batch_1"}).status_code == 400
        assert client.get("/api/events", params={"lastEventId": "1-0"}).status_code == 422


def test_the_number_of_streams_is_limited(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "MAX_STREAMS", 2)
    with Listener(gateway.url), Listener(gateway.url) as second:
        with gateway.client() as client:
            answer = client.get("/api/events")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "2 streams" in answer.json()["error"]["message"]
        second.drop()

        def is_accepted() -> bool:
            with Listener(gateway.url) as listener:
                return listener.response.status == 200

        until(is_accepted, "the closed stream to make room")


# Idle streams and load


def test_an_idle_stream_sends_heartbeats(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.05)
    job_request, other = created(gateway.store), created(gateway.store)
    with (
        listening(gateway),
        Listener(gateway.url, StreamRequest(job_id=job_request.job_id)) as listener,
    ):
        until(lambda: listener.comments >= 3, "heartbeats")
        # The position moves on with the transitions of other jobs.
        update(gateway.store, other, 5)
        (*_, newest) = all_ids(gateway.store, "0-0")
        until(lambda: listener.last_id == newest, "the position to move on")
        assert listener.events == []


def test_many_clients_cost_redis_one_reader(gateway: Gateway) -> None:
    job_request = created(gateway.store)
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(gateway.url)) for _ in range(100)]
        for listener in listeners:
            listener.until_positioned()
        before = reads(gateway.store)
        for first in range(0, 100, 10):
            update(gateway.store, job_request, 10, first=first)
        for listener in listeners:
            listener.until_it_has(100)
        # Three reads and one wait per wake-up, for all clients together.
        assert reads(gateway.store) - before <= 4 * (10 + 5)


def reads(store: JobStore) -> int:
    stats: Any = store.redis.info("commandstats")
    return sum(
        stats.get(f"cmdstat_{name}", {}).get("calls", 0)
        for name in ("xrange", "xrevrange", "xread")
    )


def test_open_streams_do_not_delay_the_shutdown(
    settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with running_gateway(settings()) as gateway:
        listeners = [Listener(gateway.url).until_positioned() for _ in range(5)]
    # uvicorn logs an error when it has to cancel requests.
    for listener in listeners:
        until(lambda: not listener.listening, "the stream to end")  # noqa: B023 - asked now
        assert listener.ended_well
        listener.drop()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Outages of Redis


def start(redis: Process) -> None:
    redis.start()
    redis.await_ready()


@pytest.mark.parametrize("kept", [True, False])
def test_streams_survive_a_restart_of_redis(
    tmp_path: Path, settings: MakeSettings, kept: bool
) -> None:
    with (
        RedisServer(tmp_path, "--appendonly", "yes" if kept else "no") as redis,
        running_gateway(settings(redis_url=redis.url)) as gateway,
    ):
        job_request = created(gateway.store)
        with listening(gateway) as listener:
            update(gateway.store, job_request, 3)
            listener.until_it_has(3)
            redis.stop()
            # A client that connects now waits with the others.
            with Listener(gateway.url) as late:
                assert late.response.status == 200
                start(redis)
                if kept:
                    update(gateway.store, job_request, 3, first=3)
                    assert numbers(listener.until_it_has(6).events) == [
                        f"number {serial}" for serial in range(6)
                    ]
                    assert numbers(late.until_it_has(3).events) == numbers(listener.events[3:])
                else:
                    for each in (listener, late):
                        until(lambda: "reset" in each.kinds, "the reset")  # noqa: B023 - asked now
                    created(gateway.store)
                    listener.until_it_has(5)
                    late.until_it_has(2)
                    assert listener.kinds == ["transition"] * 3 + ["reset", "transition"]
                    assert late.kinds == ["reset", "transition"]


def test_the_gateway_can_start_before_redis(tmp_path: Path, settings: MakeSettings) -> None:
    redis = RedisServer(tmp_path)
    chosen = settings(redis_url=redis.url)
    with running_gateway(chosen) as gateway, Listener(gateway.url) as listener:
        assert listener.response.status == 200
        with redis:
            listener.until_positioned()
            with connect(chosen).redis as client:
                created(JobStore(client, chosen.key_prefix))
            listener.until_it_has(1)
