"""The commands that change records: one contract for all stores, over fakeredis and Redis."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from batchflow.jobs import JobRequest, random_job_id
from batchflow.states import LIVE, TRANSITIONS, JobKind, JobState, Phase, Stage, WaitingFor
from batchflow.store import index, keys, records
from batchflow.store.command import Command
from batchflow.store.records import (
    Begun,
    CancelResult,
    DeleteResult,
    Isolation,
    Try,
    UpdateOutcome,
)
from tests.kit.job_requests import a_job_request
from tests.kit.processes import until
from tests.kit.stores import LATER_S, StoreHarness, over_redis

TERMINAL = sorted(set(JobState) - LIVE)
EARLIER_S = -1_000


# Create


def test_create_records_a_new_job(store: StoreHarness) -> None:
    job_request = a_job_request(execution="p/d/e/n", attempt=2)
    now_s = store.run(records.time())
    created = store.run(records.create(job_request, due_in_s=30))
    assert created.new
    job = created.job
    assert job is not None
    assert job == store.job(job_request)
    assert (job.id, job.kind, job.state) == (job_request.job_id, JobKind.BATCH, JobState.QUEUED)
    assert (job.spec, job.execution, job.attempt) == (job_request.spec, "p/d/e/n", 2)
    assert (job.source, job.tries, job.stage, job.message) == ("create", 1, Stage.NONE, "")
    assert job.created_at == job.updated_at
    assert job.created_at.timestamp() == pytest.approx(now_s, abs=5)
    assert store.due()[job.id] == pytest.approx(now_s + 30, abs=5)
    assert store.run(index.recent(10)) == [job.id]


def test_create_finds_an_existing_job_and_changes_nothing(store: StoreHarness) -> None:
    job_request = store.in_state(JobState.RUNNING)
    before = store.everything()
    other = job_request.model_copy(update={"execution": "other"})
    for rebuilt in (False, True):
        created = store.run(records.create(other, due_in_s=0, rebuilt=rebuilt))
        assert not created.new
        assert created.job == store.job(job_request)
    assert store.everything() == before


def later_attempt(job_request: JobRequest) -> JobRequest:
    return job_request.model_copy(update={"attempt": job_request.attempt + 1})


@pytest.mark.parametrize("state", sorted(LIVE))
def test_a_later_attempt_takes_over_a_live_job(store: StoreHarness, state: JobState) -> None:
    job_request = store.in_state(state, execution="p/d/e/n")
    later = later_attempt(job_request)
    created = store.run(records.create(later, due_in_s=0))
    assert not created.new
    assert created.job == store.job(job_request)
    assert (store.job(job_request).attempt, store.job(job_request).state) == (1, state)
    assert store.events()[-1]["message"] == "Attempt 1 of the task took over this job."
    assert store.job(job_request).history.endswith("took over this job.")
    before = store.everything()
    for repeated in (later, job_request):
        store.run(records.create(repeated, due_in_s=0))
    assert store.everything() == before


@pytest.mark.parametrize("state", TERMINAL)
def test_a_later_attempt_does_not_change_an_ended_job(store: StoreHarness, state: JobState) -> None:
    job_request = store.in_state(state, execution="p/d/e/n")
    before = store.everything()
    store.run(records.create(later_attempt(job_request), due_in_s=0))
    assert store.everything() == before


def test_a_later_attempt_replaces_a_job_that_is_being_cancelled(store: StoreHarness) -> None:
    job_request = store.created(execution="p/d/e/n")
    store.run(records.begin(job_request.job_id))
    cancel = records.cancel(job_request.job_id, message="Cancelled.", source="test")
    assert store.run(cancel) is CancelResult.REQUESTED
    found = store.run(records.create(later_attempt(job_request), due_in_s=0)).job
    assert found is not None
    assert (found.replaced, found.attempt, found.cancel_requested) == (True, 0, True)
    # It stays replaced, even if its batch completes before it is cancelled.
    store.changed(job_request, to=JobState.SUCCEEDED)
    assert store.job(job_request).replaced


def test_a_rebuilt_record_may_have_something_at_openai(store: StoreHarness) -> None:
    job_request = a_job_request()
    assert store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True)).new
    job = store.job(job_request)
    assert (job.state, job.stage, job.tries) == (JobState.RUNNING, Stage.IN_PROGRESS, 1)
    assert (job.source, job.batch_id) == ("get", None)
    assert job.message.startswith("Redis lost this job's record")
    assert store.run(records.claim_due(10, hold_s=10)) == [job_request.job_id]


def test_a_young_store_may_have_been_emptied(store: StoreHarness) -> None:
    identified = a_job_request(execution="p/d/e/n")
    job = store.run(records.create(identified, due_in_s=0)).job
    assert job is not None
    assert (job.tries, job.tried_at) == (1, datetime.fromtimestamp(0, UTC))
    unidentified = store.run(records.create(a_job_request(), due_in_s=0)).job
    assert unidentified is not None
    assert unidentified.tries == 0


def test_an_old_store_has_every_job(store: StoreHarness) -> None:
    store.run(Command("SET", [keys.BORN], [store.run(records.time()) - 3_600], bool))
    job = store.run(records.create(a_job_request(execution="p/d/e/n"), due_in_s=0)).job
    assert job is not None
    assert (job.tries, job.tried_at) == (0, None)


def test_a_record_is_plain_to_read(store: StoreHarness) -> None:
    job_request = store.created()
    store.run(records.begin(job_request.job_id))
    observed = {
        "batch_id": "batch_1",
        "openai_status": "completed",
        "output_file_id": "file-2",
        "error_file_id": "file-3",
        "total": 3,
        "completed": 2,
        "failed": 1,
        "bytes_done": 10,
        "bytes_total": 10,
        "message": "Done.",
        "result": "{}",
    }
    store.changed(job_request, to=JobState.SUCCEEDED, stage=Stage.ENDED, fields=observed)
    record = store.raw(keys.job(job_request.job_id))
    history = record.pop("history").split("\n")
    assert [line.split("\t")[1:] for line in history] == [
        ["queued", "", "create", ""],
        ["succeeded", "completed", "test", "Done."],
    ]
    at = {name: record.pop(name) for name in list(record) if name.endswith("_at")}
    assert set(at) == {"created_at", "updated_at", "checked_at", "tried_at", "settled_at"}
    assert all(re.fullmatch(r"\d{10}\.\d{6}", time_) for time_ in at.values())
    assert record == {name: str(value) for name, value in observed.items()} | {
        "kind": "batch",
        "state": "succeeded",
        "stage": "4",
        "input_file_id": "file-1",
        "credential": "FLYTE_OPENAI_API_KEY",
        "spec": '{"config":{}}',
        "tries": "1",
        "source": "test",
    }


def test_get_without_a_record(store: StoreHarness) -> None:
    assert store.run(records.get(random_job_id())) is None


def test_job_statuses_are_read_in_one_round_trip(store: StoreHarness) -> None:
    running, done = store.created(), store.created(JobKind.UPLOAD)
    seen = {"batch_id": "batch_1", "openai_status": "in_progress", "total": 3, "completed": 1}
    seen |= {"message": "Waiting.", "waiting_for": WaitingFor.KEY}
    store.changed(running, to=JobState.RUNNING, stage=Stage.IN_PROGRESS, fields=seen)
    store.changed(done, to=JobState.SUCCEEDED, fields={"result": '{"file_id": "file-9"}'})
    broken = store.created()
    store.redis.hset(f"{store.prefix}:{keys.job(broken.job_id)}", "state", "of-the-future")
    ids = [running.job_id, random_job_id(), done.job_id, broken.job_id]
    first, unknown, second, invalid = store.run(records.job_statuses(ids))
    assert (unknown, invalid) == (None, None)
    for status, job_request in ((first, running), (second, done)):
        assert status is not None
        job = store.job(job_request).model_dump() | {"result": status.result}
        expected = {name: "" if job[name] is None else job[name] for name in status._fields}
        assert status._asdict() == expected | {"waiting_for": job["waiting_for"]}
    assert first is not None
    assert (first.waiting_for, first.phase) == (WaitingFor.KEY, Phase.WAITING_FOR_RESOURCES)
    assert second is not None
    assert second.result == '{"file_id": "file-9"}'


@pytest.mark.parametrize(
    ("field", "value"), [("state", "of-the-future"), ("spec", "{"), ("total", "x")]
)
def test_an_invalid_record_is_none_and_is_not_overwritten(
    store: StoreHarness, field: str, value: str
) -> None:
    job_request = store.created()
    store.redis.hset(f"{store.prefix}:{keys.job(job_request.job_id)}", field, value)
    assert store.run(records.get(job_request.job_id)) is None
    created = store.run(records.create(job_request, due_in_s=0, rebuilt=True))
    assert (created.job, created.new) == (None, False)
    assert store.raw(keys.job(job_request.job_id))[field] == value


# Update


@pytest.mark.parametrize("before", JobState)
def test_update_follows_the_table_of_transitions(store: StoreHarness, before: JobState) -> None:
    for after in JobState:
        job_request = store.in_state(before)
        untouched = store.everything()
        updated = store.run(
            records.update(
                job_request.job_id,
                source="test",
                to=after,
                stage=Stage.ENDED,
                due_in_s=0,
                fields={"message": "Changed.", "batch_id": "batch_9"},
            )
        )
        if after in TRANSITIONS[before]:
            assert (updated.outcome, updated.state) == (UpdateOutcome.APPLIED, after)
            assert (store.job(job_request).state, store.job(job_request).message) == (
                after,
                "Changed.",
            )
            assert (job_request.job_id in store.due()) is not after.terminal
        else:
            assert (updated.outcome, updated.state) == (UpdateOutcome.REFUSED, before)
            assert store.everything() == untouched


@pytest.mark.parametrize("state", TERMINAL)
def test_a_terminal_state_absorbs_everything(store: StoreHarness, state: JobState) -> None:
    job_request = store.in_state(state)
    untouched = store.everything()
    assert (
        store.changed(job_request, fields={"message": "Late."}, due_in_s=0) is UpdateOutcome.REFUSED
    )
    assert (
        store.changed(job_request, stage=Stage.ENDED, fields={"total": 9}) is UpdateOutcome.REFUSED
    )
    assert store.run(records.begin(job_request.job_id)) == Try(Begun.REFUSED)
    cancel = records.cancel(job_request.job_id, message="Late.", source="test")
    assert store.run(cancel) is CancelResult.ENDED
    assert not store.run(records.create(job_request, due_in_s=0, rebuilt=True)).new
    assert store.everything() == untouched


def test_update_without_a_record(store: StoreHarness) -> None:
    change = records.update(random_job_id(), source="test", to=JobState.FAILED, due_in_s=0)
    updated = store.run(change)
    assert (updated.outcome, updated.state) == (UpdateOutcome.MISSING, None)
    assert not store.everything()


@pytest.mark.parametrize("known", Stage)
def test_an_outdated_observation_is_dropped(store: StoreHarness, known: Stage) -> None:
    for observed in Stage:
        job_request = store.created()
        store.changed(
            job_request, to=JobState.RUNNING, stage=known, fields={"openai_status": "known"}
        )
        events, batch_id = len(store.events()), f"batch_{observed}"
        seen = {"openai_status": "seen", "message": "Seen.", "total": 5, "batch_id": batch_id}
        outcome = store.changed(
            job_request, to=JobState.SUCCEEDED, stage=observed, fields=seen, due_in_s=0
        )
        job = store.job(job_request)
        what = (job.state, job.openai_status, job.message, job.total, job.batch_id)
        if Stage.NONE < observed < known:
            assert outcome is UpdateOutcome.STALE
            assert what == (JobState.RUNNING, "known", "", 0, None)
            assert store.run(records.find_job(batch_id)) is None
            assert len(store.events()) == events
        else:
            assert outcome is UpdateOutcome.APPLIED
            assert what == (JobState.SUCCEEDED, "seen", "Seen.", 5, batch_id)
        assert job.stage is max(known, observed)
        assert job.checked_at is not None


def test_only_observations_move_checked_at(store: StoreHarness) -> None:
    job_request = store.created()
    store.changed(job_request, fields={"message": "Hello."})
    assert store.job(job_request).checked_at is None
    store.changed(job_request, stage=Stage.NONE)
    assert store.job(job_request).checked_at is not None


@pytest.mark.parametrize(
    ("known", "of_batch", "outcome"),
    [
        (None, records.NO_BATCH, UpdateOutcome.APPLIED),
        (None, "batch_1", UpdateOutcome.STALE),
        (None, "", UpdateOutcome.APPLIED),
        ("batch_1", records.NO_BATCH, UpdateOutcome.STALE),
        ("batch_1", "batch_1", UpdateOutcome.APPLIED),
        ("batch_1", "batch_2", UpdateOutcome.STALE),
        ("batch_1", "", UpdateOutcome.APPLIED),
    ],
)
def test_an_update_about_another_batch_is_stale(
    store: StoreHarness, known: str | None, of_batch: str, outcome: UpdateOutcome
) -> None:
    job_request = store.created()
    store.changed(job_request, fields={"batch_id": known})
    change = {"of_batch": of_batch, "stage": Stage.ENDED, "to": JobState.FAILED}
    assert store.changed(job_request, **change, fields={"total": 3}) is outcome
    job = store.job(job_request)
    applied = outcome is UpdateOutcome.APPLIED
    assert (job.state is JobState.FAILED, job.total, job.stage) == (
        applied,
        3 if applied else 0,
        Stage.ENDED if applied else Stage.NONE,
    )


@pytest.mark.parametrize("name", ["total", "bytes_done"])
@pytest.mark.parametrize(
    ("values", "kept"),
    [([3, 7], 7), ([7, 3], 7), ([0], 0), ([None], 0), ([None, 4], 4), ([1, 10**13], 10**13)],
)
def test_counts_only_grow(
    store: StoreHarness, name: str, values: list[int | None], kept: int
) -> None:
    job_request = store.created()
    for value in values:
        assert store.changed(job_request, fields={name: value}) is UpdateOutcome.APPLIED
    assert getattr(store.job(job_request), name) == kept


def test_none_removes_a_field(store: StoreHarness) -> None:
    job_request = store.created()
    store.changed(job_request, fields={"failures": 3, "message": "Broken.", "model": "gpt-test"})
    store.changed(job_request, fields={"failures": None, "message": None, "model": "gpt-other"})
    job = store.job(job_request)
    assert (job.failures, job.message, job.model) == (0, "", "gpt-other")
    assert not {"failures", "message"} & set(store.raw(keys.job(job_request.job_id)))
    assert store.changed(job_request, fields={"error_file_id": None}) is UpdateOutcome.APPLIED


def test_what_a_job_waits_for_ends_with_its_message(store: StoreHarness) -> None:
    job_request = store.created()
    waits = {"message": "No key.", "waiting_for": WaitingFor.KEY}
    for ends in ({"message": "Down."}, {"message": None}):
        store.changed(job_request, fields=waits)
        store.changed(job_request, fields={"total": 3}, due_in_s=5)
        assert store.job(job_request).waiting_for is WaitingFor.KEY
        store.changed(job_request, fields=ends)
        assert store.job(job_request).waiting_for is None
    store.changed(job_request, fields=waits)
    store.run(records.begin(job_request.job_id))
    store.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    assert store.job(job_request).waiting_for is None


@pytest.mark.parametrize(
    ("change", "visible"),
    [
        ({"fields": {"message": "New."}}, True),
        ({"fields": {"message": "Old."}}, False),
        ({"fields": {"message": ""}}, True),
        ({"fields": {"openai_status": "in_progress"}}, True),
        ({"fields": {"openai_status": "validating"}}, False),
        ({"fields": {"total": 8, "bytes_done": 1, "failures": 2}}, False),
        ({"stage": Stage.IN_PROGRESS}, False),
        ({"due_in_s": 5}, False),
        ({"to": JobState.RUNNING}, False),
        ({"to": JobState.FAILED}, True),
        ({}, False),
    ],
)
def test_a_visible_change_is_an_event(
    store: StoreHarness, change: dict[str, Any], visible: bool
) -> None:
    job_request = store.created()
    store.changed(
        job_request,
        to=JobState.RUNNING,
        stage=Stage.VALIDATING,
        fields={"message": "Old.", "openai_status": "validating"},
        source="before",
    )
    before, other = store.job(job_request), store.created()
    assert store.changed(job_request, source="after", **change) is UpdateOutcome.APPLIED
    job = store.job(job_request)
    assert (job.updated_at > before.updated_at) is visible
    assert job.source == ("after" if visible else "before")
    assert store.run(index.recent(1)) == [job_request.job_id if visible else other.job_id]
    assert [event["source"] for event in store.events()][3:] == (["after"] if visible else [])


def test_due_time_changes_on_request_and_ends_with_the_job(store: StoreHarness) -> None:
    job_request = store.created(due_in_s=LATER_S)
    now_s = store.run(records.time())
    store.changed(job_request, to=JobState.RUNNING, fields={"message": "Going."})
    assert store.due()[job_request.job_id] == pytest.approx(now_s + LATER_S, abs=5)
    store.changed(job_request, due_in_s=0.5)
    assert store.due()[job_request.job_id] == pytest.approx(now_s + 0.5, abs=5)
    store.changed(job_request, to=JobState.SUCCEEDED, due_in_s=0)
    assert not store.due()


def test_a_batch_leads_to_its_job(store: StoreHarness) -> None:
    job_request = store.created()
    store.changed(job_request, fields={"batch_id": "batch_1"})
    assert store.run(records.find_job("batch_1")) == job_request.job_id
    assert store.run(records.find_job("batch_2")) is None
    ttl_s = store.redis.ttl(f"{store.prefix}:{keys.openai('batch_1')}")
    assert keys.OPENAI_TTL_S - 60 <= ttl_s <= keys.OPENAI_TTL_S


def test_an_update_reports_a_requested_cancellation(store: StoreHarness) -> None:
    job_request = store.created()
    update = records.update(job_request.job_id, source="test", to=JobState.RUNNING)
    assert not store.run(update).cancel_requested
    store.run(records.begin(job_request.job_id))
    store.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    assert store.run(update).cancel_requested


# Begin


def test_begin_counts_attempts(store: StoreHarness) -> None:
    job_request = store.created()
    now_s = store.run(records.time())
    begun = [store.run(records.begin(job_request.job_id)) for _ in range(3)]
    assert [(this.begun, this.number) for this in begun] == [(Begun.BEGUN, n) for n in (1, 2, 3)]
    job = store.job(job_request)
    assert (job.tries, job.state) == (3, JobState.QUEUED)
    assert job.tried_at is not None
    assert job.tried_at.timestamp() == pytest.approx(now_s, abs=5)


def test_a_job_to_be_cancelled_does_not_begin(store: StoreHarness) -> None:
    job_request = store.created()
    store.run(records.begin(job_request.job_id))
    store.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    before = store.everything()
    assert store.run(records.begin(job_request.job_id)) == Try(Begun.CANCELLED)
    assert store.everything() == before


def test_begin_without_a_record(store: StoreHarness) -> None:
    assert store.run(records.begin(random_job_id())) == Try(Begun.MISSING)
    assert not store.everything()


def test_a_try_is_settled_when_its_request_has_ended(store: StoreHarness) -> None:
    job_request = store.created()
    begun = store.run(records.begin(job_request.job_id, settles_in_s=80))
    assert settles_in_s(store, job_request) == pytest.approx(80, abs=5)
    assert store.run(records.settle(job_request.job_id, begun, settles_in_s=20))
    assert settles_in_s(store, job_request) == pytest.approx(20, abs=5)


def test_a_try_does_not_settle_a_later_one(store: StoreHarness) -> None:
    job_request = store.created()
    first = store.run(records.begin(job_request.job_id, settles_in_s=10))
    store.run(records.begin(job_request.job_id, settles_in_s=80))
    store.run(records.settle(job_request.job_id, first, settles_in_s=20))
    assert settles_in_s(store, job_request) == pytest.approx(80, abs=5)
    store.run(records.settle(job_request.job_id, first, settles_in_s=200))
    assert settles_in_s(store, job_request) == pytest.approx(200, abs=5)


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_try_without_effect_is_taken_back(store: StoreHarness, earlier: int) -> None:
    job_request = store.created()
    for _ in range(earlier):
        store.run(records.begin(job_request.job_id, settles_in_s=5))
    store.run(records.check_server())
    before = store.everything()
    begun = store.run(records.begin(job_request.job_id, settles_in_s=80))
    assert store.run(records.take_back(job_request.job_id, begun))
    assert store.everything() == before
    assert not store.run(records.take_back(job_request.job_id, begun))


def test_a_try_is_not_taken_back_after_another_one(store: StoreHarness) -> None:
    job_request = store.created()
    first = store.run(records.begin(job_request.job_id))
    store.run(records.begin(job_request.job_id))
    assert not store.run(records.take_back(job_request.job_id, first))
    assert store.job(job_request).tries == 2


def test_a_try_without_a_record_writes_nothing(store: StoreHarness) -> None:
    job_request = store.created()
    begun = store.run(records.begin(job_request.job_id))
    store.redis.delete(f"{store.prefix}:{keys.job(job_request.job_id)}")
    assert not store.run(records.take_back(job_request.job_id, begun))
    assert not store.run(records.settle(job_request.job_id, begun, settles_in_s=1))
    assert store.run(records.get(job_request.job_id)) is None


def settles_in_s(store: StoreHarness, job_request: JobRequest) -> float:
    settled_at = store.job(job_request).settled_at
    assert settled_at is not None
    return settled_at.timestamp() - store.run(records.time())


# Servers


def change_server(store: StoreHarness, ago_s: float = 0) -> None:
    """Let the store have been on another server until ``ago_s`` seconds ago."""
    changed_at = store.run(records.time()) - ago_s
    store.redis.hset(f"{store.prefix}:{keys.SERVER}", "changed_at", f"{changed_at:.6f}")


def test_the_first_server_is_not_another_one(redis_url: str, key_prefix: str) -> None:
    with over_redis(key_prefix, True, redis_url) as store:
        assert store.run(records.check_server()) is None
        run_id = store.raw(keys.SERVER)["run_id"]
        assert store.run(records.check_server()) is None
        assert store.raw(keys.SERVER) == {"run_id": run_id}


@pytest.mark.parametrize("noticed_by", ["check_server", "begin"])
def test_another_server_is_noticed_once(redis_url: str, key_prefix: str, noticed_by: str) -> None:
    with over_redis(key_prefix, True, redis_url) as store:
        job_request = store.created()
        store.redis.hset(f"{store.prefix}:{keys.SERVER}", "run_id", "of-an-older-server")
        if noticed_by == "begin":
            assert store.run(records.begin(job_request.job_id)).begun is Begun.SEARCH
        changed_at = store.run(records.check_server())
        assert changed_at == pytest.approx(store.run(records.time()), abs=5)
        assert store.run(records.check_server()) == changed_at


def test_a_server_that_does_not_say_its_run_id_is_the_same_one(
    redis_url: str, key_prefix: str
) -> None:
    with over_redis(key_prefix, True, redis_url) as store:
        store.redis.hset(f"{store.prefix}:{keys.SERVER}", "run_id", "of-an-older-server")
        store.redis.acl_setuser(key_prefix, enabled=True, commands=["-info"])
        assert store.run(records.check_server()) is None
        assert store.run(records.begin(store.created().job_id)).begun is Begun.BEGUN


@pytest.mark.parametrize("tries", [0, 1])
def test_a_job_from_before_another_server_is_searched_for(store: StoreHarness, tries: int) -> None:
    job_request = store.created()
    for _ in range(tries):
        store.run(records.begin(job_request.job_id, settles_in_s=80))
    change_server(store)
    begin = records.begin(job_request.job_id, tries=tries, settles_in_s=80)
    assert store.run(begin) == Try(Begun.SEARCH)
    job = store.job(job_request)
    assert (job.tries, job.state) == (1, JobState.QUEUED)
    assert settles_in_s(store, job_request) == pytest.approx(80, abs=5)
    # The next step searches, because there was a try, and then begins.
    begun = store.run(records.begin(job_request.job_id, tries=1, settles_in_s=80))
    assert (begun.begun, begun.number) == (Begun.BEGUN, 2)


def test_a_job_that_is_to_be_cancelled_is_searched_for_first(store: StoreHarness) -> None:
    job_request = store.created()
    store.run(records.begin(job_request.job_id))
    store.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    change_server(store)
    begin = records.begin(job_request.job_id, settles_in_s=80)
    assert [store.run(begin).begun for _ in range(2)] == [Begun.SEARCH, Begun.CANCELLED]


def test_a_job_from_after_another_server_begins(store: StoreHarness) -> None:
    change_server(store, ago_s=1)
    job_request = store.created()
    begin = records.begin(job_request.job_id, tries=0, settles_in_s=80)
    assert store.run(begin).begun is Begun.BEGUN


@pytest.mark.parametrize(("ago_s", "tries"), [(10, 1), (1_000, 0)])
def test_a_record_on_a_new_server_may_have_been_lost(
    store: StoreHarness, ago_s: float, tries: int
) -> None:
    now_s = store.run(records.time())
    store.run(Command("SET", [keys.BORN], [now_s - 3_600], bool))
    change_server(store, ago_s)
    job = store.run(records.create(a_job_request(execution="p/d/e/n"), due_in_s=0)).job
    assert job is not None
    assert job.tries == tries
    if tries:
        assert job.tried_at is not None
        assert job.tried_at.timestamp() == pytest.approx(now_s - ago_s, abs=5)


# Start


def test_start_counts_until_the_step_returns(store: StoreHarness) -> None:
    job_request = store.created()
    for number in (1, 2):
        started = store.run(records.start(job_request.job_id))
        assert started == store.job(job_request)
        assert started.starts == number
    assert store.run(records.forget_starts(job_request.job_id))
    assert store.job(job_request).starts == 0


def test_only_starts_of_live_jobs_without_a_batch_count(store: StoreHarness) -> None:
    submitted = store.in_state(JobState.RUNNING)
    store.changed(submitted, fields={"batch_id": "batch_1"})
    for job_request in (submitted, store.in_state(JobState.FAILED)):
        before = store.everything()
        assert store.run(records.start(job_request.job_id)) == store.job(job_request)
        assert store.everything() == before
    assert store.run(records.start(random_job_id())) is None


# Due times


def test_only_a_live_job_without_a_due_time_becomes_due(store: StoreHarness) -> None:
    lost, kept, ended = store.created(), store.created(), store.in_state(JobState.FAILED)
    store.redis.zrem(f"{store.prefix}:{keys.DUE}", lost.job_id)
    now_s, due_s = store.run(records.time()), store.due()[kept.job_id]
    restored = [store.run(records.restore_due(r.job_id)) for r in (lost, lost, kept, ended)]
    assert restored == [True, False, False, False]
    assert not store.run(records.restore_due(random_job_id()))
    assert store.due() == {lost.job_id: pytest.approx(now_s, abs=5), kept.job_id: due_s}


# Isolate


def test_a_live_job_is_isolated_until_its_time_is_over(store: StoreHarness) -> None:
    job_request = store.created()
    isolate = records.isolate(job_request.job_id, again_s=900, lifetime_s=600)
    now_s = store.run(records.time())
    assert store.run(isolate) == (Isolation.NEW, "queued")
    assert store.run(isolate) == (Isolation.KNOWN, "queued")
    assert store.due() == {job_request.job_id: pytest.approx(now_s + 900, abs=5)}
    assert store.run(records.isolated(10)) == [job_request.job_id]
    expired = store.created()
    store.changed(expired, fields={"expires_at": now_s - 1})
    old = records.isolate(job_request.job_id, again_s=900, lifetime_s=-1)
    new = records.isolate(expired.job_id, again_s=900, lifetime_s=600)
    assert store.run(old) == store.run(new) == (Isolation.OVERDUE, "queued")
    assert store.run(index.unreadable()) == 2
    assert store.run(records.release([job_request.job_id, expired.job_id])) == 2
    assert store.run(index.unreadable()) == 0


def test_an_ended_job_is_not_isolated(store: StoreHarness) -> None:
    ended = store.in_state(JobState.FAILED)
    for job_id in (ended.job_id, random_job_id()):
        isolation, _ = store.run(records.isolate(job_id, again_s=900, lifetime_s=600))
        assert isolation is Isolation.GONE
    assert (store.due(), store.run(index.unreadable())) == ({}, 0)


def test_a_state_of_another_version_can_be_ended(store: StoreHarness) -> None:
    job_request = store.created()
    store.redis.hset(f"{store.prefix}:{keys.job(job_request.job_id)}", "state", "paused")
    assert store.changed(job_request, to=JobState.FAILED) is UpdateOutcome.REFUSED
    ended = store.changed(job_request, to=JobState.FAILED, only_in="paused")
    assert (ended, store.job(job_request).state) == (UpdateOutcome.APPLIED, JobState.FAILED)
    assert store.due() == {}


def test_another_version_may_count_other_jobs(store: StoreHarness) -> None:
    store.created()
    store.redis.hset(f"{store.prefix}:{keys.COUNTS}", "unknown:queued", "3")
    assert store.run(index.counts()) == {(JobKind.BATCH, JobState.QUEUED): 1}


# Cancel


@pytest.mark.parametrize("state", sorted(LIVE))
@pytest.mark.parametrize("tries", [0, 1])
@pytest.mark.parametrize("kind", JobKind)
def test_cancel_ends_a_job_at_once_unless_openai_may_work_on_it(
    store: StoreHarness, kind: JobKind, tries: int, state: JobState
) -> None:
    job_request = store.in_state(state, kind)
    for _ in range(tries):
        store.run(records.begin(job_request.job_id))
    what = store.run(
        records.cancel(job_request.job_id, message="Cancelled by Flyte.", source="delete")
    )
    job = store.job(job_request)
    assert (job.message, job.source) == ("Cancelled by Flyte.", "delete")
    assert job.cancel_requested
    event = store.events()[-1]
    assert (event["before"], event["state"], event["source"]) == (state, job.state, "delete")
    if kind is JobKind.BATCH and tries:
        assert (what, job.state) == (CancelResult.REQUESTED, state)
        assert store.run(records.claim_due(10, hold_s=10)) == [job_request.job_id]
    else:
        assert (what, job.state) == (CancelResult.CANCELLED, JobState.CANCELLED)
        assert not store.due()


def test_cancel_can_be_repeated(store: StoreHarness) -> None:
    job_request = store.created()
    store.run(records.begin(job_request.job_id))
    cancel = records.cancel(job_request.job_id, message="Cancelled.", source="test")
    assert [store.run(cancel), store.run(cancel)] == [CancelResult.REQUESTED] * 2
    store.changed(job_request, to=JobState.CANCELLED)
    assert store.run(cancel) is CancelResult.ENDED


# Delete


def test_a_deleted_task_is_due_for_cancellation_after_a_delay(store: StoreHarness) -> None:
    job_request = store.in_state(JobState.RUNNING, execution="p/d/e/n")
    now_s = store.run(records.time())
    delete = records.delete_task(job_request.job_id, attempt=0, delay_s=60)
    assert store.run(delete) is DeleteResult.SCHEDULED
    job = store.job(job_request)
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, False)
    assert job.delete_at is not None
    assert job.delete_at.timestamp() == pytest.approx(now_s + 60, abs=5)
    assert store.due()[job.id] == pytest.approx(job.delete_at.timestamp(), abs=0.001)
    assert store.events()[-1]["source"] == "delete"
    assert "Flyte asked to cancel the job. It will be cancelled in 60 s" in job.history
    assert store.run(records.cancel_deleted(job_request.job_id)) is None
    before = store.everything()
    assert [store.run(delete) for _ in range(12)] == [DeleteResult.SCHEDULED] * 12
    assert store.everything() == before


def test_no_later_due_time_puts_off_a_deletion(store: StoreHarness) -> None:
    job_request = store.created(due_in_s=10)
    due_s = store.due()[job_request.job_id]
    store.run(records.delete_task(job_request.job_id, attempt=0, delay_s=60))
    assert store.due()[job_request.job_id] == due_s
    store.changed(job_request, due_in_s=LATER_S)
    delete_at = store.job(job_request).delete_at
    assert delete_at is not None
    assert store.due()[job_request.job_id] == pytest.approx(delete_at.timestamp(), abs=0.001)


@pytest.mark.parametrize("tries", [0, 1])
def test_a_deleted_job_is_cancelled_once_its_delay_has_passed(
    store: StoreHarness, tries: int
) -> None:
    store.run(Command("SET", [keys.BORN], [0], bool))
    job_request = store.created(execution="p/d/e/n")
    for _ in range(tries):
        store.run(records.begin(job_request.job_id))
    store.run(records.delete_task(job_request.job_id, attempt=0, delay_s=0))
    result = store.run(records.cancel_deleted(job_request.job_id))
    assert result is (CancelResult.REQUESTED if tries else CancelResult.CANCELLED)
    job = store.job(job_request)
    assert (job.message, job.source, job.cancel_requested, job.delete_at) == (
        "Cancelled by Flyte.",
        "delete",
        True,
        None,
    )
    before = store.everything()
    repeated = store.run(records.delete_task(job_request.job_id, attempt=0, delay_s=60))
    assert repeated is (DeleteResult.SCHEDULED if tries else DeleteResult.ENDED)
    assert store.everything() == before
    # Flyte does not ask about it any more.
    store.changed(job_request, to=JobState.CANCELLED)
    assert store.run(index.uncollected(10)) == []


def test_a_take_over_undoes_a_deletion(store: StoreHarness) -> None:
    job_request = store.in_state(JobState.RUNNING, execution="p/d/e/n")
    store.run(records.delete_task(job_request.job_id, attempt=0, delay_s=0))
    store.run(records.create(later_attempt(job_request), due_in_s=0))
    job = store.job(job_request)
    assert (job.attempt, job.delete_at, job.collected_at) == (1, None, None)
    assert store.run(records.cancel_deleted(job_request.job_id)) is None
    before = store.everything()
    delete = records.delete_task(job_request.job_id, attempt=0, delay_s=0)
    assert store.run(delete) is DeleteResult.SUPERSEDED
    assert store.everything() == before
    store.changed(job_request, to=JobState.SUCCEEDED)
    assert store.run(index.uncollected(10)) == [job_request.job_id]


@pytest.mark.parametrize("state", TERMINAL)
def test_delete_of_an_ended_job_only_ends_the_wait_for_flyte(
    store: StoreHarness, state: JobState
) -> None:
    job_request = store.in_state(state, execution="p/d/e/n")
    events, job = store.events(), store.job(job_request)
    delete = records.delete_task(job_request.job_id, attempt=0, delay_s=60)
    assert store.run(delete) is DeleteResult.ENDED
    assert store.run(index.uncollected(10)) == []
    assert store.events() == events
    changed = store.job(job_request)
    assert changed.model_copy(update={"collected_at": None}) == job


def test_a_person_can_cancel_a_deleted_job_at_once(store: StoreHarness) -> None:
    job_request = store.created()
    store.run(records.delete_task(job_request.job_id, attempt=0, delay_s=60))
    cancel = records.cancel(job_request.job_id, message="Cancelled.", source="cli")
    assert store.run(cancel) is CancelResult.CANCELLED
    assert store.job(job_request).delete_at is None


def test_delete_without_a_record(store: StoreHarness) -> None:
    assert store.run(records.delete_task(random_job_id(), attempt=0, delay_s=60)) is None
    assert store.run(records.cancel_deleted(random_job_id())) is None
    assert not store.everything()


def test_cancel_without_a_record(store: StoreHarness) -> None:
    cancel = records.cancel(random_job_id(), message="Cancelled.", source="test")
    assert store.run(cancel) is None
    assert not store.everything()


# Due jobs


def test_a_due_job_is_claimed_once(store: StoreHarness) -> None:
    job_request, later = store.created(due_in_s=0), store.created(due_in_s=LATER_S)
    assert store.run(records.claim_due(10, hold_s=LATER_S)) == [job_request.job_id]
    assert store.run(records.claim_due(10, hold_s=LATER_S)) == []
    assert set(store.due()) == {job_request.job_id, later.job_id}


def test_a_claimed_job_is_due_again_after_its_hold(store: StoreHarness) -> None:
    job_request = store.created(due_in_s=0)
    claim = records.claim_due(10, hold_s=0.05)
    assert store.run(claim) == [job_request.job_id]
    until(lambda: store.run(claim) == [job_request.job_id], "the end of the hold")


def test_the_longest_overdue_are_claimed_first_up_to_the_limit(store: StoreHarness) -> None:
    job_requests = [store.created(due_in_s=-age_s) for age_s in (10, 40, 20, 30)]
    ids = [job_requests[n].job_id for n in (1, 3, 2, 0)]
    claim = records.claim_due(3, hold_s=LATER_S)
    assert [store.run(claim), store.run(claim), store.run(claim)] == [ids[:3], ids[3:], []]


# Purge


@pytest.mark.parametrize(
    ("state", "retention_s", "gone"),
    [
        *[(state, EARLIER_S, False) for state in sorted(LIVE)],
        *[(state, LATER_S, False) for state in TERMINAL],
        *[(state, EARLIER_S, True) for state in TERMINAL],
    ],
)
def test_purge_deletes_jobs_that_ended_long_ago(
    store: StoreHarness, state: JobState, retention_s: float, gone: bool
) -> None:
    job_request = store.in_state(state)
    # A negative retention time stands for a clock that has advanced.
    assert store.run(records.purge(job_request.job_id, retention_s=retention_s)) is gone
    assert (store.run(records.get(job_request.job_id)) is None) is gone
    assert store.run(index.recent(10)) == ([] if gone else [job_request.job_id])
    assert store.run(index.counts())[JobKind.BATCH, state] == (0 if gone else 1)


def test_purge_cleans_up_after_a_deleted_record(store: StoreHarness) -> None:
    job_request = store.created(due_in_s=0)
    store.redis.delete(f"{store.prefix}:{keys.job(job_request.job_id)}")
    assert store.run(records.purge(job_request.job_id, retention_s=LATER_S))
    assert not store.due()
    assert not store.run(index.recent(10))


def test_a_purged_job_can_be_created_again(store: StoreHarness) -> None:
    job_request = store.in_state(JobState.FAILED)
    store.run(records.purge(job_request.job_id, retention_s=EARLIER_S))
    assert store.run(records.create(job_request, due_in_s=0)).new
    assert store.job(job_request).state is JobState.QUEUED
    assert store.job(job_request).message == ""


# History


def test_a_long_history_keeps_the_first_and_the_last_changes(store: StoreHarness) -> None:
    job_request = store.created()
    for number in range(200):
        store.changed(job_request, fields={"message": f"Change {number}. " + "ü" * 250})
    entries = store.job(job_request).history.split("\n")
    assert entries[0].split("\t")[3] == "create"
    assert entries[-1].split("\t")[4].startswith("Change 199.")
    assert 5 < len(entries) < 50
    assert all(len(entry.split("\t")) == 5 for entry in entries)


def test_a_change_is_one_line_of_history_whatever_its_message(store: StoreHarness) -> None:
    job_request = store.created()
    store.changed(job_request, fields={"message": "One\ttwo\nthree\x00."})
    assert len(store.job(job_request).history.split("\n")) == 2


def test_a_job_is_uncollected_from_its_end_until_flyte_has_received_it(
    store: StoreHarness,
) -> None:
    job_request = store.in_state(JobState.RUNNING, execution="p/d/e/n")
    now_s = store.run(records.time())
    assert store.run(index.uncollected(10)) == []
    store.run(records.update(job_request.job_id, source="poll", to=JobState.SUCCEEDED))
    assert store.run(index.uncollected(10)) == [job_request.job_id]
    assert store.run(index.uncollected_since(now_s - 600)) == 0
    assert store.run(index.uncollected_since(now_s + 600)) == 1
    assert store.run(records.collect(job_request.job_id))
    assert store.run(index.uncollected(10)) == []
    collected_at = store.job(job_request).collected_at
    assert collected_at
    assert store.run(records.collect(job_request.job_id))
    assert store.job(job_request).collected_at == collected_at


def test_only_ended_jobs_of_flyte_are_awaited(store: StoreHarness) -> None:
    local = store.in_state(JobState.RUNNING)
    store.run(records.update(local.job_id, source="poll", to=JobState.FAILED))
    purged = store.in_state(JobState.RUNNING, execution="p/d/e/n")
    store.run(records.update(purged.job_id, source="poll", to=JobState.FAILED))
    assert store.run(index.uncollected(10)) == [purged.job_id]
    assert store.run(records.purge(purged.job_id, retention_s=EARLIER_S))
    assert store.run(index.uncollected(10)) == []
    assert not store.run(records.collect(purged.job_id))


def test_an_annotation_changes_nothing_else(store: StoreHarness) -> None:
    job_request = store.in_state(JobState.SUCCEEDED)
    before, events = store.job(job_request), len(store.events())
    assert store.run(records.annotate(job_request.job_id, {"top_error": "3 x 429"}))
    assert store.job(job_request) == before.model_copy(update={"top_error": "3 x 429"})
    assert len(store.events()) == events
    assert not store.run(records.annotate(random_job_id(), {"top_error": "3 x 429"}))
