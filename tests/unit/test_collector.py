"""The metrics that are collected from a snapshot, and the lengths of queues."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client.exposition import choose_encoder

from batchflow.gateway.metrics.collector import FleetCollector
from batchflow.gateway.webhook_receiver import DeliveryResult
from batchflow.openai_client.calls import CallOutcome, Operation
from batchflow.queue import Queue, QueueUnavailable, Sender, Step, all_queues, make_app
from batchflow.queue.lengths import QueueLength, queue_lengths
from batchflow.settings import Settings
from batchflow.states import JobKind, JobState
from batchflow.store import metrics
from batchflow.store.backoff import Backoff
from batchflow.store.heartbeats import Worker
from batchflow.store.index import IndexEntry
from tests.kit.exposition import OPENMETRICS, TEXT, Exposition, problems
from tests.kit.snapshots import a_snapshot

NOTHING: dict[str, Any] = {}
EMPTY = {queue: QueueLength(0) for queue in Queue}


def counted(*commands: Any) -> dict[tuple[str, ...], float]:
    """The counters after these commands."""
    found: dict[str, float] = {}
    for command in commands:
        field, by = command.args
        found[field] = found.get(field, 0) + by
    return metrics.counters().parse(found)


def answer(
    fleet: Mapping[str, Any] | None = NOTHING,
    queues: Mapping[Queue, QueueLength] | None = EMPTY,
    accept: str = TEXT,
) -> str:
    encode, content_type = choose_encoder(accept)
    assert content_type == accept
    collector = FleetCollector(None if fleet is None else a_snapshot(**fleet), queues)
    return encode(collector).decode()


BUSY: dict[str, Any] = {
    "jobs": {(JobKind.BATCH, JobState.RUNNING): 7},
    "counters": counted(
        metrics.count("transitions", "batch", "", "queued", by=9),
        metrics.count("transitions", "batch", "queued", "running", by=8),
        metrics.count("tokens", "input", by=1_000_000),
        metrics.count("due_times_restored", by=6),
        metrics.count("openai_calls", "batches.list", "rate_limited", by=3),
        metrics.count("openai_waits", "rate_limited", by=3),
        metrics.count("openai_wait_seconds", "rate_limited", by=4.5),
        metrics.count("webhook_deliveries", "accepted", by=2),
        *metrics.observation("knowing", 0.3, "webhook"),
        *metrics.observation("knowing", 7_200, "poll"),
        *metrics.observation("sweep", 0.02),
        *metrics.observation("openai_call", 0.2, "batches.list"),
    ),
    "last_seen_s": {"poll": 9_996.0, "sweep": 9_999.0, "webhook": 9_970.0},
    "oldest_live": {JobKind.BATCH: IndexEntry("6400.000000", "bf-1")},
    "first_due_s": 9_988.0,
    "uncollected": 4,
    "unreadable": 5,
    "live_workers": [
        Worker("a@x", ("submit", "poll"), 10_000.0),
        Worker("b@x", ("submit", "another"), 10_000.0),
    ],
    "backoffs": {"team/key@org-1": Backoff(17.0, "OpenAI answered 503.")},
    "quota_queues": {"team/key@org-1|gpt-5": 3, "team/key|": 1, "empty|gpt-5": 0},
}
WAITING = {
    Queue.SUBMIT: QueueLength(5, 61.0),
    Queue.POLL: QueueLength(0),
    Queue.FILES: QueueLength(1, 0.0),
}


@pytest.mark.parametrize("fleet", [None, NOTHING, BUSY])
@pytest.mark.parametrize("queues", [None, EMPTY, WAITING])
def test_a_linter_finds_no_problem_and_both_formats_agree(
    fleet: Mapping[str, Any] | None, queues: Mapping[Queue, QueueLength] | None
) -> None:
    text = answer(fleet, queues)
    assert problems(text) == []
    other = Exposition(answer(fleet, queues, OPENMETRICS), openmetrics=True)
    assert other.samples == Exposition(text).samples
    for family in other.families:
        assert family.unit == ("seconds" if family.name.endswith("_seconds") else "")


def test_values_have_the_right_names_and_labels() -> None:
    found = Exposition(answer(BUSY, WAITING))
    assert found.value("redis_up") == found.value("broker_up") == 1
    assert found.value("jobs", kind="batch", state="running") == 7
    assert found.value("job_transitions_total", kind="batch", from_="new", to="queued") == 9
    assert found.value("job_transitions_total", kind="batch", from_="queued", to="running") == 8
    assert found.value("tokens_total", direction="input") == 1_000_000
    assert found.value("openai_calls_total", operation="batches.list", outcome="rate_limited") == 3
    assert found.value("openai_waits_total", reason="rate_limited") == 3
    assert found.value("openai_wait_seconds_total", reason="rate_limited") == 4.5
    assert found.value("webhook_deliveries_total", result="accepted") == 2
    assert found.value("poll_age_seconds") == 4
    assert found.value("sweep_age_seconds") == 1
    assert found.value("webhook_age_seconds") == 30
    assert found.value("oldest_live_job_age_seconds", kind="batch") == 3_600
    assert found.value("due_lag_seconds") == 12
    assert found.value("due_times_restored_total") == 6
    assert found.value("uncollected_jobs") == 4
    assert found.value("unreadable_records") == 5
    assert found.value("workers", queue="submit") == 2
    assert found.value("credential_backoff_seconds", credential="team/key@org-1") == 17
    line = {"credential": "team/key@org-1", "model": "gpt-5"}
    assert found.value("jobs_waiting_for_capacity", **line) == 3
    assert found.value("queue_messages", queue="submit") == 5
    assert found.value("queue_oldest_message_age_seconds", queue="submit") == 61


def test_unknown_values_are_absent() -> None:
    text = answer(None, None)
    assert set(Exposition(text).samples.values()) == {0.0}
    assert set(Exposition(text).labels_by_name()) == {"batchflow_redis_up", "batchflow_broker_up"}
    quiet = Exposition(answer())
    for name in ("poll_age_seconds", "sweep_age_seconds", "webhook_age_seconds"):
        assert quiet.value(name) is None
    assert quiet.value("oldest_live_job_age_seconds", kind="batch") is None
    assert quiet.value("queue_oldest_message_age_seconds", queue="poll") is None


def test_counters_exist_before_their_first_event() -> None:
    """So that ``increase`` sees it."""
    found = Exposition(answer())
    for operation in Operation:
        for outcome in CallOutcome:
            labels = {"operation": operation.value, "outcome": outcome.value}
            assert found.value("openai_calls_total", **labels) == 0
    for result in DeliveryResult:
        assert found.value("webhook_deliveries_total", result=result.value) == 0
    for kind in JobKind:
        for state in JobState:
            assert found.value("jobs", kind=kind.value, state=state.value) == 0
            ends = {"kind": kind.value, "from_": "running", "to": state.value}
            expected = 0 if state.terminal else None
            assert found.value("job_transitions_total", **ends) == expected


def test_only_our_queues_have_a_number_of_workers() -> None:
    found = Exposition(answer(BUSY))
    workers = {queue: found.value("workers", queue=queue.value) for queue in Queue}
    assert workers == {"submit": 2, "poll": 1, "files": 0}
    assert found.value("workers", queue="another") is None


def test_a_histogram_counts_observations() -> None:
    seconds = [-1.0, 0.0, 0.1, 0.11, 60, 61, 1e6]
    observed = [command for s in seconds for command in metrics.observation("knowing", s, "poll")]
    found = Exposition(answer({"counters": counted(*observed)}))
    name = "completion_lag_seconds"

    def up_to(bound: str) -> float | None:
        return found.value(f"{name}_bucket", source="poll", le=bound)

    # Negative durations count as 0, because clocks differ.
    assert [up_to(le) for le in ("0.1", "0.25", "30.0", "60.0", "300.0")] == [3, 4, 4, 5, 6]
    assert up_to("3600.0") == 6
    assert up_to("+Inf") == found.value(f"{name}_count", source="poll") == 7
    assert found.value(f"{name}_sum", source="poll") == pytest.approx(1_000_121.21)


def test_a_histogram_accepts_incomplete_updates_and_bounds_of_an_older_release() -> None:
    counters = {
        ("knowing_bucket", "poll", "0.3"): 2.0,
        ("knowing_bucket", "webhook", "inf"): 1.0,
        ("knowing_sum", "poll"): 0.5,
    }
    text = answer({"counters": counters})
    assert problems(text) == []
    found = Exposition(text)
    assert found.value("completion_lag_seconds_bucket", source="poll", le="0.25") == 0
    assert found.value("completion_lag_seconds_bucket", source="poll", le="0.5") == 2
    assert found.value("completion_lag_seconds_count", source="webhook") == 1


def test_counters_of_another_release_are_accepted() -> None:
    counters = {("tokens", "cached"): 5.0, ("news", "a", "b"): 1.0, ("tokens",): 2.0}
    text = answer({"counters": counters})
    assert problems(text) == []
    assert Exposition(text).value("tokens_total", direction="cached") == 5


# Queues


def test_queue_lengths_with_any_broker() -> None:
    settings = Settings.model_validate({"broker_url": "memory://", "key_prefix": "unit-metrics"})
    app, names = make_app(settings), all_queues(settings)
    # A queue exists after its first message.
    assert queue_lengths(app, names, timeout_s=1) == dict.fromkeys(names, QueueLength(0))
    sender = Sender(app)
    for number in range(3):
        sender.send(Step.SUBMIT, f"bf-{number}")
    sender.send(Step.SWEEP)
    found = queue_lengths(app, names, timeout_s=1)
    assert [found[name] for name in names] == [QueueLength(3), QueueLength(1), QueueLength(0)]


def test_an_unavailable_broker_is_one_error() -> None:
    settings = Settings.model_validate({"broker_url": "redis://127.0.0.1:1/0"})
    with pytest.raises(QueueUnavailable, match="Celery's broker can't be queried"):
        queue_lengths(make_app(settings), all_queues(settings), timeout_s=1)


def test_only_our_messages_have_the_time_when_they_were_sent() -> None:
    settings = Settings.model_validate({"broker_url": "memory://", "key_prefix": "unit-sent-at"})
    app = make_app(settings)
    Sender(app).send(Step.UPLOAD, "bf-1")
    app.send_task("another.task", queue="unit-sent-at.files")
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("unit-sent-at.files")
        ours, others = queue.get(block=False), queue.get(block=False)
        ours.ack()
        others.ack()
    assert isinstance(ours.headers["sent_at"], float)
    assert "sent_at" not in others.headers
    json.dumps(ours.headers)
