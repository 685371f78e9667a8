"""The commands that change records: one contract for all stores, over fakeredis and Redis."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from batchflow.jobs import random_job_id
from batchflow.states import LIVE, TRANSITIONS, JobKind, JobState, Stage
from batchflow.store import index, keys, records
from batchflow.store.command import Command
from batchflow.store.records import Begun, CancelResult, UpdateOutcome
from tests.kit.job_requests import a_job_request
from tests.kit.processes import until
from tests.kit.rigs import LATER_S, Rig

TERMINAL = sorted(set(JobState) - LIVE)
EARLIER_S = -1_000


# Create


def test_create_records_a_new_job(rig: Rig) -> None:
    job_request = a_job_request(execution="p/d/e/n", attempt=2)
    now_s = rig.run(records.time())
    created = rig.run(records.create(job_request, due_in_s=30))
    assert created.new
    job = created.job
    assert job is not None
    assert job == rig.job(job_request)
    assert (job.id, job.kind, job.state) == (job_request.job_id, JobKind.BATCH, JobState.QUEUED)
    assert (job.spec, job.execution, job.attempt) == (job_request.spec, "p/d/e/n", 2)
    assert (job.source, job.tries, job.stage, job.message) == ("create", 1, Stage.NONE, "")
    assert job.created_at == job.updated_at
    assert job.created_at.timestamp() == pytest.approx(now_s, abs=5)
    assert rig.due()[job.id] == pytest.approx(now_s + 30, abs=5)
    assert rig.run(index.recent(10)) == [job.id]


def test_create_finds_an_existing_job_and_changes_nothing(rig: Rig) -> None:
    job_request = rig.in_state(JobState.RUNNING)
    before = rig.everything()
    other = job_request.model_copy(update={"attempt": 7, "execution": "other"})
    for rebuilt in (False, True):
        created = rig.run(records.create(other, due_in_s=0, rebuilt=rebuilt))
        assert not created.new
        assert created.job == rig.job(job_request)
        assert created.job is not None
        assert created.job.attempt == 0
    assert rig.everything() == before


def test_a_rebuilt_record_may_have_something_at_openai(rig: Rig) -> None:
    job_request = a_job_request()
    assert rig.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True)).new
    job = rig.job(job_request)
    assert (job.state, job.stage, job.tries) == (JobState.RUNNING, Stage.IN_PROGRESS, 1)
    assert (job.source, job.batch_id) == ("get", None)
    assert job.message.startswith("Redis lost this job's record")
    assert rig.run(records.claim_due(10, hold_s=10)) == [job_request.job_id]


def test_a_young_store_may_have_been_emptied(rig: Rig) -> None:
    identified = a_job_request(execution="p/d/e/n")
    job = rig.run(records.create(identified, due_in_s=0)).job
    assert job is not None
    assert (job.tries, job.tried_at) == (1, datetime.fromtimestamp(0, UTC))
    unidentified = rig.run(records.create(a_job_request(), due_in_s=0)).job
    assert unidentified is not None
    assert unidentified.tries == 0


def test_an_old_store_has_every_job(rig: Rig) -> None:
    rig.run(Command("SET", [keys.BORN], [rig.run(records.time()) - 3_600], bool))
    job = rig.run(records.create(a_job_request(execution="p/d/e/n"), due_in_s=0)).job
    assert job is not None
    assert (job.tries, job.tried_at) == (0, None)


def test_a_record_is_plain_to_read(rig: Rig) -> None:
    job_request = rig.created()
    rig.run(records.begin(job_request.job_id))
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
    rig.changed(job_request, to=JobState.SUCCEEDED, stage=Stage.ENDED, fields=observed)
    record = rig.raw(keys.job(job_request.job_id))
    history = record.pop("history").split("\n")
    assert [line.split("\t")[1:] for line in history] == [
        ["queued", "", "create", ""],
        ["succeeded", "completed", "test", "Done."],
    ]
    at = {name: record.pop(name) for name in list(record) if name.endswith("_at")}
    assert set(at) == {"created_at", "updated_at", "checked_at", "tried_at"}
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


def test_get_without_a_record(rig: Rig) -> None:
    assert rig.run(records.get(random_job_id())) is None


def test_job_statuses_are_read_in_one_round_trip(rig: Rig) -> None:
    running, done = rig.created(), rig.created(JobKind.UPLOAD)
    seen = {"batch_id": "batch_1", "openai_status": "in_progress", "total": 3, "completed": 1}
    rig.changed(running, to=JobState.RUNNING, stage=Stage.IN_PROGRESS, fields=seen)
    rig.changed(done, to=JobState.SUCCEEDED, fields={"result": '{"file_id": "file-9"}'})
    broken = rig.created()
    rig.redis.hset(f"{rig.prefix}:{keys.job(broken.job_id)}", "state", "of-the-future")
    ids = [running.job_id, random_job_id(), done.job_id, broken.job_id]
    first, unknown, second, invalid = rig.run(records.job_statuses(ids))
    assert (unknown, invalid) == (None, None)
    for status, job_request in ((first, running), (second, done)):
        assert status is not None
        job = rig.job(job_request).model_dump() | {"result": status.result}
        expected = {name: "" if job[name] is None else job[name] for name in status._fields}
        assert status._asdict() == expected
    assert second is not None
    assert second.result == '{"file_id": "file-9"}'


@pytest.mark.parametrize(
    ("field", "value"), [("state", "of-the-future"), ("spec", "{"), ("total", "x")]
)
def test_an_invalid_record_is_none_and_is_not_overwritten(rig: Rig, field: str, value: str) -> None:
    job_request = rig.created()
    rig.redis.hset(f"{rig.prefix}:{keys.job(job_request.job_id)}", field, value)
    assert rig.run(records.get(job_request.job_id)) is None
    created = rig.run(records.create(job_request, due_in_s=0, rebuilt=True))
    assert (created.job, created.new) == (None, False)
    assert rig.raw(keys.job(job_request.job_id))[field] == value


# Update


@pytest.mark.parametrize("before", JobState)
def test_update_follows_the_table_of_transitions(rig: Rig, before: JobState) -> None:
    for after in JobState:
        job_request = rig.in_state(before)
        untouched = rig.everything()
        updated = rig.run(
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
            assert (rig.job(job_request).state, rig.job(job_request).message) == (after, "Changed.")
            assert (job_request.job_id in rig.due()) is not after.terminal
        else:
            assert (updated.outcome, updated.state) == (UpdateOutcome.REFUSED, before)
            assert rig.everything() == untouched


@pytest.mark.parametrize("state", TERMINAL)
def test_a_terminal_state_absorbs_everything(rig: Rig, state: JobState) -> None:
    job_request = rig.in_state(state)
    untouched = rig.everything()
    assert (
        rig.changed(job_request, fields={"message": "Late."}, due_in_s=0) is UpdateOutcome.REFUSED
    )
    assert rig.changed(job_request, stage=Stage.ENDED, fields={"total": 9}) is UpdateOutcome.REFUSED
    assert rig.run(records.begin(job_request.job_id)) == (Begun.REFUSED, 0)
    cancel = records.cancel(job_request.job_id, message="Late.", source="test")
    assert rig.run(cancel) is CancelResult.ENDED
    assert not rig.run(records.create(job_request, due_in_s=0, rebuilt=True)).new
    assert rig.everything() == untouched


def test_update_without_a_record(rig: Rig) -> None:
    change = records.update(random_job_id(), source="test", to=JobState.FAILED, due_in_s=0)
    updated = rig.run(change)
    assert (updated.outcome, updated.state) == (UpdateOutcome.MISSING, None)
    assert not rig.everything()


@pytest.mark.parametrize("known", Stage)
def test_an_outdated_observation_is_dropped(rig: Rig, known: Stage) -> None:
    for observed in Stage:
        job_request = rig.created()
        rig.changed(
            job_request, to=JobState.RUNNING, stage=known, fields={"openai_status": "known"}
        )
        events, batch_id = len(rig.events()), f"batch_{observed}"
        seen = {"openai_status": "seen", "message": "Seen.", "total": 5, "batch_id": batch_id}
        outcome = rig.changed(
            job_request, to=JobState.SUCCEEDED, stage=observed, fields=seen, due_in_s=0
        )
        job = rig.job(job_request)
        what = (job.state, job.openai_status, job.message, job.total, job.batch_id)
        if Stage.NONE < observed < known:
            assert outcome is UpdateOutcome.STALE
            assert what == (JobState.RUNNING, "known", "", 0, None)
            assert rig.run(records.find_job(batch_id)) is None
            assert len(rig.events()) == events
        else:
            assert outcome is UpdateOutcome.APPLIED
            assert what == (JobState.SUCCEEDED, "seen", "Seen.", 5, batch_id)
        assert job.stage is max(known, observed)
        assert job.checked_at is not None


def test_only_observations_move_checked_at(rig: Rig) -> None:
    job_request = rig.created()
    rig.changed(job_request, fields={"message": "Hello."})
    assert rig.job(job_request).checked_at is None
    rig.changed(job_request, stage=Stage.NONE)
    assert rig.job(job_request).checked_at is not None


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
    rig: Rig, known: str | None, of_batch: str, outcome: UpdateOutcome
) -> None:
    job_request = rig.created()
    rig.changed(job_request, fields={"batch_id": known})
    change = {"of_batch": of_batch, "stage": Stage.ENDED, "to": JobState.FAILED}
    assert rig.changed(job_request, **change, fields={"total": 3}) is outcome
    job = rig.job(job_request)
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
def test_counts_only_grow(rig: Rig, name: str, values: list[int | None], kept: int) -> None:
    job_request = rig.created()
    for value in values:
        assert rig.changed(job_request, fields={name: value}) is UpdateOutcome.APPLIED
    assert getattr(rig.job(job_request), name) == kept


def test_none_removes_a_field(rig: Rig) -> None:
    job_request = rig.created()
    rig.changed(job_request, fields={"failures": 3, "message": "Broken.", "model": "gpt-test"})
    rig.changed(job_request, fields={"failures": None, "message": None, "model": "gpt-other"})
    job = rig.job(job_request)
    assert (job.failures, job.message, job.model) == (0, "", "gpt-other")
    assert not {"failures", "message"} & set(rig.raw(keys.job(job_request.job_id)))
    assert rig.changed(job_request, fields={"error_file_id": None}) is UpdateOutcome.APPLIED


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
def test_a_visible_change_is_an_event(rig: Rig, change: dict[str, Any], visible: bool) -> None:
    job_request = rig.created()
    rig.changed(
        job_request,
        to=JobState.RUNNING,
        stage=Stage.VALIDATING,
        fields={"message": "Old.", "openai_status": "validating"},
        source="before",
    )
    before, other = rig.job(job_request), rig.created()
    assert rig.changed(job_request, source="after", **change) is UpdateOutcome.APPLIED
    job = rig.job(job_request)
    assert (job.updated_at > before.updated_at) is visible
    assert job.source == ("after" if visible else "before")
    assert rig.run(index.recent(1)) == [job_request.job_id if visible else other.job_id]
    assert [event["source"] for event in rig.events()][3:] == (["after"] if visible else [])


def test_due_time_changes_on_request_and_ends_with_the_job(rig: Rig) -> None:
    job_request = rig.created(due_in_s=LATER_S)
    now_s = rig.run(records.time())
    rig.changed(job_request, to=JobState.RUNNING, fields={"message": "Going."})
    assert rig.due()[job_request.job_id] == pytest.approx(now_s + LATER_S, abs=5)
    rig.changed(job_request, due_in_s=0.5)
    assert rig.due()[job_request.job_id] == pytest.approx(now_s + 0.5, abs=5)
    rig.changed(job_request, to=JobState.SUCCEEDED, due_in_s=0)
    assert not rig.due()


def test_a_batch_leads_to_its_job(rig: Rig) -> None:
    job_request = rig.created()
    rig.changed(job_request, fields={"batch_id": "batch_1"})
    assert rig.run(records.find_job("batch_1")) == job_request.job_id
    assert rig.run(records.find_job("batch_2")) is None
    ttl_s = rig.redis.ttl(f"{rig.prefix}:{keys.openai('batch_1')}")
    assert keys.OPENAI_TTL_S - 60 <= ttl_s <= keys.OPENAI_TTL_S


def test_an_update_reports_a_requested_cancellation(rig: Rig) -> None:
    job_request = rig.created()
    update = records.update(job_request.job_id, source="test", to=JobState.RUNNING)
    assert not rig.run(update).cancel_requested
    rig.run(records.begin(job_request.job_id))
    rig.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    assert rig.run(update).cancel_requested


# Begin


def test_begin_counts_attempts(rig: Rig) -> None:
    job_request = rig.created()
    now_s = rig.run(records.time())
    assert [rig.run(records.begin(job_request.job_id)) for _ in range(3)] == [
        (Begun.BEGUN, n) for n in (1, 2, 3)
    ]
    job = rig.job(job_request)
    assert (job.tries, job.state) == (3, JobState.QUEUED)
    assert job.tried_at is not None
    assert job.tried_at.timestamp() == pytest.approx(now_s, abs=5)


def test_a_job_to_be_cancelled_does_not_begin(rig: Rig) -> None:
    job_request = rig.created()
    rig.run(records.begin(job_request.job_id))
    rig.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    before = rig.everything()
    assert rig.run(records.begin(job_request.job_id)) == (Begun.CANCELLED, 0)
    assert rig.everything() == before


def test_begin_without_a_record(rig: Rig) -> None:
    assert rig.run(records.begin(random_job_id())) == (Begun.MISSING, 0)
    assert not rig.everything()


# Cancel


@pytest.mark.parametrize("state", sorted(LIVE))
@pytest.mark.parametrize("tries", [0, 1])
@pytest.mark.parametrize("kind", JobKind)
def test_cancel_ends_a_job_at_once_unless_openai_may_work_on_it(
    rig: Rig, kind: JobKind, tries: int, state: JobState
) -> None:
    job_request = rig.in_state(state, kind)
    for _ in range(tries):
        rig.run(records.begin(job_request.job_id))
    what = rig.run(
        records.cancel(job_request.job_id, message="Cancelled by Flyte.", source="delete")
    )
    job = rig.job(job_request)
    assert (job.message, job.source) == ("Cancelled by Flyte.", "delete")
    assert job.cancel_requested
    event = rig.events()[-1]
    assert (event["before"], event["state"], event["source"]) == (state, job.state, "delete")
    if kind is JobKind.BATCH and tries:
        assert (what, job.state) == (CancelResult.REQUESTED, state)
        assert rig.run(records.claim_due(10, hold_s=10)) == [job_request.job_id]
    else:
        assert (what, job.state) == (CancelResult.CANCELLED, JobState.CANCELLED)
        assert not rig.due()


def test_cancel_can_be_repeated(rig: Rig) -> None:
    job_request = rig.created()
    rig.run(records.begin(job_request.job_id))
    cancel = records.cancel(job_request.job_id, message="Cancelled.", source="test")
    assert [rig.run(cancel), rig.run(cancel)] == [CancelResult.REQUESTED] * 2
    rig.changed(job_request, to=JobState.CANCELLED)
    assert rig.run(cancel) is CancelResult.ENDED


def test_cancel_without_a_record(rig: Rig) -> None:
    cancel = records.cancel(random_job_id(), message="Cancelled.", source="test")
    assert rig.run(cancel) is None
    assert not rig.everything()


# Due jobs


def test_a_due_job_is_claimed_once(rig: Rig) -> None:
    job_request, later = rig.created(due_in_s=0), rig.created(due_in_s=LATER_S)
    assert rig.run(records.claim_due(10, hold_s=LATER_S)) == [job_request.job_id]
    assert rig.run(records.claim_due(10, hold_s=LATER_S)) == []
    assert set(rig.due()) == {job_request.job_id, later.job_id}


def test_a_claimed_job_is_due_again_after_its_hold(rig: Rig) -> None:
    job_request = rig.created(due_in_s=0)
    claim = records.claim_due(10, hold_s=0.05)
    assert rig.run(claim) == [job_request.job_id]
    until(lambda: rig.run(claim) == [job_request.job_id], "the end of the hold")


def test_the_longest_overdue_are_claimed_first_up_to_the_limit(rig: Rig) -> None:
    job_requests = [rig.created(due_in_s=-age_s) for age_s in (10, 40, 20, 30)]
    ids = [job_requests[n].job_id for n in (1, 3, 2, 0)]
    claim = records.claim_due(3, hold_s=LATER_S)
    assert [rig.run(claim), rig.run(claim), rig.run(claim)] == [ids[:3], ids[3:], []]


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
    rig: Rig, state: JobState, retention_s: float, gone: bool
) -> None:
    job_request = rig.in_state(state)
    # A negative retention time stands for a clock that has advanced.
    assert rig.run(records.purge(job_request.job_id, retention_s=retention_s)) is gone
    assert (rig.run(records.get(job_request.job_id)) is None) is gone
    assert rig.run(index.recent(10)) == ([] if gone else [job_request.job_id])
    assert rig.run(index.counts())[JobKind.BATCH, state] == (0 if gone else 1)


def test_purge_cleans_up_after_a_deleted_record(rig: Rig) -> None:
    job_request = rig.created(due_in_s=0)
    rig.redis.delete(f"{rig.prefix}:{keys.job(job_request.job_id)}")
    assert rig.run(records.purge(job_request.job_id, retention_s=LATER_S))
    assert not rig.due()
    assert not rig.run(index.recent(10))


def test_a_purged_job_can_be_created_again(rig: Rig) -> None:
    job_request = rig.in_state(JobState.FAILED)
    rig.run(records.purge(job_request.job_id, retention_s=EARLIER_S))
    assert rig.run(records.create(job_request, due_in_s=0)).new
    assert rig.job(job_request).state is JobState.QUEUED
    assert rig.job(job_request).message == ""


# History


def test_a_long_history_keeps_the_first_and_the_last_changes(rig: Rig) -> None:
    job_request = rig.created()
    for number in range(200):
        rig.changed(job_request, fields={"message": f"Change {number}. " + "ü" * 250})
    entries = rig.job(job_request).history.split("\n")
    assert entries[0].split("\t")[3] == "create"
    assert entries[-1].split("\t")[4].startswith("Change 199.")
    assert 5 < len(entries) < 50
    assert all(len(entry.split("\t")) == 5 for entry in entries)


def test_a_change_is_one_line_of_history_whatever_its_message(rig: Rig) -> None:
    job_request = rig.created()
    rig.changed(job_request, fields={"message": "One\ttwo\nthree\x00."})
    assert len(rig.job(job_request).history.split("\n")) == 2


def test_an_annotation_changes_nothing_else(rig: Rig) -> None:
    job_request = rig.in_state(JobState.SUCCEEDED)
    before, events = rig.job(job_request), len(rig.events())
    assert rig.run(records.annotate(job_request.job_id, {"top_error": "3 x 429"}))
    assert rig.job(job_request) == before.model_copy(update={"top_error": "3 x 429"})
    assert len(rig.events()) == events
    assert not rig.run(records.annotate(random_job_id(), {"top_error": "3 x 429"}))
