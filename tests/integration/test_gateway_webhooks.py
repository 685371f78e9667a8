"""The receiver of OpenAI's webhooks, with a real Redis and a real broker behind it."""

import base64
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from batchflow.errors import InvalidSettings
from batchflow.gateway.app import make_gateway
from batchflow.gateway.security.middleware import MAX_BODY_BYTES
from batchflow.gateway.security.rate_limit import INVALID_DELIVERIES, REQUESTS
from batchflow.queue import Queue, queue_name
from batchflow.settings import Settings
from batchflow.store import JobStore, connect, deliveries, heartbeats, keys, metrics, records
from tests.kit.asgi import Answer, InProcess
from tests.kit.deliveries import OTHER_SECRET, SECRET, Delivery, delivery, event
from tests.kit.job_requests import a_job_request
from tests.kit.processes import RedisServer

MakeSettings = Callable[..., Settings]

PATH = "/webhooks/openai"
BATCH = "batch_68f0c1"
REFUSAL = '{"error":{"message":"Not a valid delivery from OpenAI."}}'
#: How long OpenAI repeats a delivery.
REPEATED_S = 72 * 3_600


class Receiver(InProcess):
    """A gateway, with its queue and counters in Redis."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(make_gateway(settings))
        self.settings = settings
        self.store: JobStore = connect(settings)

    def deliver(self, sent: Delivery, **more: str) -> Answer:
        """Send a delivery as OpenAI does."""
        headers = {**sent.headers, **more}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        return self.request("POST", PATH, raw, [sent.body])

    def make_job(self, batch_id: str = BATCH) -> str:
        """Create a job with a batch."""
        job_request = a_job_request()
        self.store.run(records.create(job_request, due_in_s=60))
        self.store.run(
            records.update(job_request.job_id, source="test", fields={"batch_id": batch_id})
        )
        return job_request.job_id

    @property
    def queued(self) -> list[tuple[str, list[Any]]]:
        """The steps in the queue with their arguments, oldest first."""
        name = queue_name(self.settings.key_prefix, Queue.POLL)
        messages: Any = self.store.redis.lrange(name, 0, -1)
        found = []
        for message in map(json.loads, reversed(messages)):
            args, _, _ = json.loads(base64.b64decode(message["body"]))
            found.append((message["headers"]["task"], args))
        return found

    @property
    def counted(self) -> dict[str, float]:
        """Deliveries by result."""
        found = self.store.run(metrics.counters())
        return {name[1]: n for name, n in found.items() if name[0] == "webhook_deliveries"}


@pytest.fixture
def receiver(settings: MakeSettings) -> Iterator[Receiver]:
    with Receiver(settings(webhook_secrets=SECRET)) as receiver, receiver.store.redis:
        yield receiver


def genuine(batch_id: str = BATCH, **values: Any) -> Delivery:
    return delivery(event(batch_id), at_s=time.time(), **values)


class TestGenuine:
    @pytest.mark.parametrize("ended", ["completed", "failed", "expired", "cancelled"])
    def test_a_batch_of_a_job_is_refreshed(self, receiver: Receiver, ended: str) -> None:
        job_id = receiver.make_job()
        sent = delivery(event(BATCH, f"batch.{ended}"), at_s=time.time())
        answer = receiver.deliver(sent)
        assert (answer.status, answer.body) == (204, b"")
        assert receiver.queued == [("batchflow.refresh", [job_id])]
        assert receiver.counted == {"accepted": 1}
        assert time.time() - receiver.store.run(heartbeats.last_seen())["webhook"] < 10

    def test_the_record_is_left_to_the_worker(self, receiver: Receiver) -> None:
        job_id = receiver.make_job()
        before = receiver.store.run(records.get(job_id))
        receiver.deliver(genuine())
        assert receiver.store.run(records.get(job_id)) == before

    def test_a_repeated_delivery_is_acknowledged_but_not_enqueued(self, receiver: Receiver) -> None:
        receiver.make_job()
        sent = genuine()
        assert [receiver.deliver(sent).status for _ in range(3)] == [204] * 3
        # OpenAI signs a repeated delivery again.
        later = delivery(sent.body, at_s=time.time() + 60, webhook_id=sent.headers["webhook-id"])
        assert receiver.deliver(later).status == 204
        assert len(receiver.queued) == 1
        assert receiver.counted == {"accepted": 1, "duplicate": 3}

    def test_a_delivery_is_remembered_for_longer_than_openai_repeats_it(
        self, receiver: Receiver
    ) -> None:
        receiver.make_job()
        receiver.deliver(genuine(webhook_id="wh_1"))
        key = keys.full(receiver.settings.key_prefix, keys.delivery("wh_1"))
        ttl: Any = receiver.store.redis.ttl(key)
        assert ttl > REPEATED_S

    def test_a_foreign_batch_is_acknowledged_and_counted(self, receiver: Receiver) -> None:
        assert receiver.deliver(genuine("batch_of_another_client")).status == 204
        assert receiver.queued == []
        assert receiver.counted == {"foreign": 1}

    @pytest.mark.parametrize(
        "body",
        [
            event(BATCH, "response.completed"),
            event(BATCH, "batch.something_new"),
            event(BATCH, ""),
            b'{"type": "safety.alert.created", "data": {}}',
            b'{"type": "eval.run.failed", "data": {"id": 1, "more": [null]}, "more": true}',
        ],
    )
    def test_other_events_are_acknowledged_and_counted(
        self, receiver: Receiver, body: bytes
    ) -> None:
        receiver.make_job()
        assert receiver.deliver(delivery(body, at_s=time.time())).status == 204
        assert receiver.queued == []
        assert receiver.counted == {"ignored": 1}

    def test_each_of_several_secrets_is_accepted(self, settings: MakeSettings) -> None:
        with Receiver(settings(webhook_secrets=f"{SECRET}, {OTHER_SECRET}")) as receiver:
            for secret in (SECRET, OTHER_SECRET):
                assert receiver.deliver(genuine(secret=secret)).status == 204

    def test_valid_deliveries_are_not_rate_limited(self, receiver: Receiver) -> None:
        statuses = {receiver.deliver(genuine()).status for _ in range(REQUESTS.amount + 50)}
        assert statuses == {204}

    def test_a_delivery_needs_no_token_and_no_certain_host(self, settings: MakeSettings) -> None:
        guarded = settings(webhook_secrets=SECRET, api_token="a token that is long enough")
        with Receiver(guarded) as receiver:
            assert receiver.deliver(genuine(), host="hooks.example").status == 204


class TestRefused:
    """All invalid deliveries get the same response, which gives no hint to an attacker."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda sent: sent.without("webhook-signature"),
            lambda sent: sent.with_header("webhook-timestamp", "0"),
            lambda sent: sent.with_header("webhook-id", "wh_2"),
            lambda sent: Delivery(sent.body + b" ", sent.headers),
            lambda sent: delivery(sent.body, at_s=time.time() - 400),
            lambda sent: delivery(sent.body, at_s=time.time() + 400),
            lambda sent: delivery(sent.body, at_s=time.time(), secret=OTHER_SECRET),
        ],
    )
    def test_a_forged_delivery(
        self, receiver: Receiver, change: Callable[[Delivery], Delivery]
    ) -> None:
        receiver.make_job()
        answer = receiver.deliver(change(genuine()))
        assert (answer.status, answer.text, answer.error) == (400, REFUSAL, None)
        assert receiver.queued == []
        assert receiver.counted == {"rejected": 1}

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"{", b"[]", b"null", b"1", b'"batch.completed"', b"NaN", b"{}", b"[" * 5_000),
            *(b'{"type": 1, "data": {}}', b'{"type": "x"}', b'{"type": "x", "data": []}'),
            *(b'{"type": "batch.completed"}', b'{"type": "batch.failed", "data": {}}'),
            b'{"type": "batch.completed", "data": {"id": ["batch_1"]}}',
            *(event(batch_id) for batch_id in ("", "../x", "a b", "x" * 300, "ü")),
        ],
    )
    def test_a_signed_but_invalid_event(self, receiver: Receiver, body: bytes) -> None:
        answer = receiver.deliver(delivery(body, at_s=time.time()))
        assert (answer.status, answer.text, answer.error) == (400, REFUSAL, None)
        assert receiver.counted == {"rejected": 1}

    def test_a_body_that_is_not_text(self, receiver: Receiver) -> None:
        body = b"\xff\xfe"
        # The kit signs only text.
        text = delivery(b"", at_s=time.time(), webhook_id="wh_1")
        assert receiver.deliver(Delivery(body, text.headers)).status == 400

    def test_the_log_gives_the_reason(
        self, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver.deliver(genuine().without("webhook-id"))
        assert "A webhook was refused: it has 0 headers webhook-id instead of one." in caplog.text

    @pytest.mark.parametrize("is_announced", [True, False])
    def test_a_large_body_is_not_read_to_the_end(
        self, receiver: Receiver, is_announced: bool
    ) -> None:
        sent = delivery(event("x" * MAX_BODY_BYTES), at_s=time.time())
        length = [(b"content-length", str(len(sent.body)).encode())] if is_announced else []
        raw = [(name.encode(), value.encode()) for name, value in sent.headers.items()]
        chunks = [sent.body[at : at + 1024] for at in range(0, len(sent.body), 1024)]
        answer = receiver.request("POST", PATH, raw + length, [*chunks, b"more"])
        assert (answer.status, answer.text) == (400, REFUSAL)

    def test_without_a_secret_all_are_refused_and_the_log_says_why(
        self, settings: MakeSettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Receiver(settings()) as receiver:
            assert "OPENAI_WEBHOOK_SECRET is not set" in caplog.text
            assert receiver.deliver(genuine()).status == 400
            assert '"webhooks":"no secret"' in receiver.get("/readyz").text

    def test_an_invalid_secret_is_refused_at_the_start(self, settings: MakeSettings) -> None:
        with pytest.raises(InvalidSettings, match="OPENAI_WEBHOOK_SECRET") as error:
            make_gateway(settings(webhook_secrets=f"{SECRET},hunter2"))
        assert "hunter2" not in str(error.value)

    def test_a_flood_fills_neither_log_nor_redis(
        self, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver.make_job()
        bad = genuine(secret=OTHER_SECRET)
        statuses = {receiver.deliver(bad).status for _ in range(INVALID_DELIVERIES.amount + 40)}
        assert statuses == {400}
        assert receiver.counted == {"rejected": INVALID_DELIVERIES.amount}
        assert caplog.text.count("A webhook was refused") == INVALID_DELIVERIES.amount
        # From the same address.
        assert receiver.deliver(genuine()).status == 204


_TYPES = st.sampled_from(["batch.completed", "batch.expired", "batch.running", "x", "", 1, None])
_IDS = st.one_of(st.sampled_from([BATCH, "batch_2", "", "a b", 7, None]), st.text(max_size=8))
_EVENTS = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "type": _TYPES,
            "data": st.one_of(st.fixed_dictionaries({}, optional={"id": _IDS}), st.just([])),
            "more": st.floats(),
        },
    ),
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=5)),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=4,
    ),
).map(lambda value: json.dumps(value).encode())
_NAMES = st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"])
_VALUES = st.one_of(
    st.binary(max_size=80),
    st.text("v1a,+/= AZ", max_size=60).map(lambda text: f"v1,{text}".encode()),
    st.one_of(st.floats(), st.integers()).map(lambda number: str(number).encode()),
)
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=4)


class TestFuzz:
    """Random cases: 204 for valid deliveries, 400 for all others, never 500."""

    def test_headers(self, receiver: Receiver) -> None:
        receiver.make_job()

        @hypothesis_settings(max_examples=1_000, deadline=None)
        @given(
            headers=_HEADERS,
            added=_HEADERS,
            dropped=st.sets(_NAMES, max_size=2),
            is_changed=st.booleans(),
        )
        def check(
            headers: list[tuple[str, bytes]],
            added: list[tuple[str, bytes]],
            dropped: set[str],
            is_changed: bool,
        ) -> None:
            sent = genuine()
            original = [
                (name, value.encode())
                for name, value in sent.headers.items()
                if name not in dropped
            ]
            # Half of the cases derive from a valid delivery.
            fuzzed = [*original, *added] if is_changed else headers
            raw = [
                (name.upper().encode() if is_changed else name.encode(), v) for name, v in fuzzed
            ]
            answer = receiver.request("POST", PATH, raw, [sent.body])
            is_genuine = dict(fuzzed) == {n: v.encode() for n, v in sent.headers.items()}
            expected = 204 if is_genuine and len(fuzzed) == 3 else 400
            assert (answer.status, answer.error) == (expected, None)

        check()

    def test_signed_bodies(self, receiver: Receiver) -> None:
        receiver.make_job()

        @hypothesis_settings(max_examples=750, deadline=None)
        @given(_EVENTS)
        @example(b'{"type": "x", "data": {}, "more": 1e999}')
        @example(b'{"type": "x", "data": {"id": "\\ud800"}}')
        @example(b'{"type": "batch.completed", "data": {"id": "batch_1", "id": "batch_2"}}')
        def check(body: bytes) -> None:
            answer = receiver.deliver(delivery(body, at_s=time.time()))
            assert (answer.status, answer.error) == (204 if is_valid_event(body) else 400, None)

        check()

    def test_any_bodies(self, receiver: Receiver) -> None:
        receiver.make_job()

        @hypothesis_settings(max_examples=750, deadline=None)
        @given(st.lists(st.binary(max_size=200), max_size=4))
        def check(chunks: list[bytes]) -> None:
            raw = [(name.encode(), value.encode()) for name, value in genuine().headers.items()]
            answer = receiver.request("POST", PATH, raw, chunks)
            assert (answer.status, answer.text, answer.error) == (400, REFUSAL, None)

        check()


def is_valid_event(body: bytes) -> bool:
    """Whether a body is an event, decided independently of the gateway."""
    parsed = json.loads(body)
    if re.search("[\ud800-\udfff]", json.dumps(parsed, ensure_ascii=False)):
        return False
    match parsed:
        case {"type": "batch.completed" | "batch.expired", "data": {"id": str(batch_id)}}:
            return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/=-]*", batch_id, re.ASCII) is not None
        case {"type": "batch.completed" | "batch.expired"}:
            return False
        case {"type": str(), "data": dict()}:
            return True
    return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop; not started yet."""
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


def start(server: RedisServer) -> None:
    server.start()
    server.await_ready()


class TestUnavailable:
    def test_without_the_broker_openai_must_repeat_the_delivery(
        self, settings: MakeSettings, server: RedisServer
    ) -> None:
        with Receiver(settings(webhook_secrets=SECRET, broker_url=server.url)) as receiver:
            job_id, sent = receiver.make_job(), genuine()
            assert receiver.deliver(sent).status == 503
            assert not receiver.store.run(deliveries.was_delivered(sent.headers["webhook-id"]))
            assert receiver.counted == {"unavailable": 1}
            start(server)
            assert receiver.deliver(sent).status == 204
            with Redis.from_url(server.url) as broker:
                name = queue_name(receiver.settings.key_prefix, Queue.POLL)
                (message,) = broker.lrange(name, 0, -1)
            assert json.loads(message)["headers"]["argsrepr"] == repr((job_id,))
            assert receiver.counted == {"unavailable": 1, "accepted": 1}

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
    def test_without_redis_openai_must_repeat_the_delivery(
        self, settings: MakeSettings, server: RedisServer, how: signal.Signals
    ) -> None:
        start(server)
        with Receiver(settings(webhook_secrets=SECRET, redis_url=server.url)) as receiver:
            job_id, sent = receiver.make_job(), genuine()
            if how == signal.SIGKILL:
                server.kill()
            else:
                server.signal(how)
            answer = receiver.deliver(sent)
            assert (answer.status, answer.error) == (503, None)
            assert str(server.port) not in answer.text
            # Forged deliveries are still refused.
            assert receiver.deliver(genuine(secret=OTHER_SECRET)).status == 400
            if how == signal.SIGKILL:
                start(server)
            else:
                server.signal(signal.SIGCONT)
            assert receiver.deliver(sent).status == 204
            assert receiver.queued == [("batchflow.refresh", [job_id])]
