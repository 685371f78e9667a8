"""One contract for every job store: blocking and asyncio, over fakeredis and a real Redis."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import product
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from batchflow.errors import StoreUnavailable
from batchflow.jobs import BatchSpec, Credential, JobRequest, random_job_id
from batchflow.states import LIVE, TRANSITIONS, JobKind, JobState, Stage
from batchflow.store import (
    AsyncJobStore,
    JobStore,
    backoff,
    index,
    keys,
    leases,
    quota_queues,
    records,
)
from batchflow.store.backoff import Backoff
from batchflow.store.command import Command
from batchflow.store.job_store import script_names, script_source
from batchflow.store.records import Begun, CancelResult, UpdateOutcome
from tests.kit.job_requests import a_job_request
from tests.kit.rigs import LATER_S, Rig, loop

T = TypeVar("T")

TERMINAL = sorted(set(JobState) - LIVE)
EARLIER_S = -1_000
#: How long a test waits for what has to come.
PATIENCE_S = 10.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.005)


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


def test_create_finds_what_is_there_and_changes_nothing(rig: Rig) -> None:
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


def test_a_remade_record_may_have_something_at_openai(rig: Rig) -> None:
    job_request = a_job_request()
    assert rig.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True)).new
    job = rig.job(job_request)
    assert (job.state, job.stage, job.tries) == (JobState.RUNNING, Stage.IN_PROGRESS, 1)
    assert (job.source, job.batch_id) == ("get", None)
    assert job.message.startswith("Redis lost this job's record")
    assert rig.run(records.claim_due(10, hold_s=10)) == [job_request.job_id]


def test_a_young_store_may_have_been_emptied(rig: Rig) -> None:
    named = a_job_request(execution="p/d/e/n")
    job = rig.run(records.create(named, due_in_s=0)).job
    assert job is not None
    assert (job.tries, job.tried_at) == (1, datetime.fromtimestamp(0, UTC))
    nameless = rig.run(records.create(a_job_request(), due_in_s=0)).job
    assert nameless is not None
    assert nameless.tries == 0


def test_an_old_store_knows_every_job(rig: Rig) -> None:
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


def test_get_of_nothing(rig: Rig) -> None:
    assert rig.run(records.get(random_job_id())) is None


def test_standings_are_read_together(rig: Rig) -> None:
    running, done = rig.created(), rig.created(JobKind.UPLOAD)
    seen = {"batch_id": "batch_1", "openai_status": "in_progress", "total": 3, "completed": 1}
    rig.changed(running, to=JobState.RUNNING, stage=Stage.IN_PROGRESS, fields=seen)
    rig.changed(done, to=JobState.SUCCEEDED, fields={"result": '{"file_id": "file-9"}'})
    broken = rig.created()
    rig.redis.hset(f"{rig.prefix}:{keys.job(broken.job_id)}", "state", "of-the-future")
    asked = [running.job_id, random_job_id(), done.job_id, broken.job_id]
    first, unknown, second, unreadable = rig.run(records.job_statuses(asked))
    assert (unknown, unreadable) == (None, None)
    for standing, job_request in ((first, running), (second, done)):
        assert standing is not None
        job = rig.job(job_request).model_dump() | {"result": standing.result}
        told = {name: "" if job[name] is None else job[name] for name in standing._fields}
        assert standing._asdict() == told
    assert second is not None
    assert second.result == '{"file_id": "file-9"}'


def test_many_questions_share_a_round_trip(redis_url: str, key_prefix: str) -> None:
    async def ask() -> None:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as redis:
            store = AsyncJobStore(redis, key_prefix)
            job_requests = [a_job_request() for _ in range(200)]
            for job_request in job_requests:
                await store.run(records.create(job_request, due_in_s=0))
            before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            found = await asyncio.gather(
                *(store.job_status(job_request.job_id) for job_request in job_requests)
            )
            assert all(standing and standing.state is JobState.QUEUED for standing in found)
            after = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            assert after - before <= 5
            assert await store.job_status(random_job_id()) is None

    asyncio.run(ask())


def test_every_question_hears_that_redis_is_away(key_prefix: str) -> None:
    async def ask() -> None:
        async with AsyncRedis.from_url("redis://127.0.0.1:1/0", decode_responses=True) as redis:
            store = AsyncJobStore(redis, key_prefix)
            asked = (store.job_status(random_job_id()) for _ in range(3))
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(answer) for answer in found] == [StoreUnavailable] * 3
            with pytest.raises(StoreUnavailable):
                await store.job_status(random_job_id())

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("field", "value"), [("state", "of-the-future"), ("spec", "{"), ("total", "x")]
)
def test_a_record_that_cannot_be_read_is_none_and_is_not_overwritten(
    rig: Rig, field: str, value: str
) -> None:
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


def test_update_of_nothing(rig: Rig) -> None:
    change = records.update(random_job_id(), source="test", to=JobState.FAILED, due_in_s=0)
    updated = rig.run(change)
    assert (updated.outcome, updated.state) == (UpdateOutcome.MISSING, None)
    assert not rig.everything()


@pytest.mark.parametrize("known", Stage)
def test_an_observation_that_is_older_than_what_is_known_is_dropped(rig: Rig, known: Stage) -> None:
    for observed in Stage:
        job_request = rig.created()
        rig.changed(
            job_request, to=JobState.RUNNING, stage=known, fields={"openai_status": "known"}
        )
        told, batch_id = len(rig.events()), f"batch_{observed}"
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
            assert len(rig.events()) == told
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
def test_what_is_said_of_another_batch_is_stale(
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
    ("change", "told"),
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
def test_what_people_would_notice_is_an_event_and_a_change(
    rig: Rig, change: dict[str, Any], told: bool
) -> None:
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
    assert (job.updated_at > before.updated_at) is told
    assert job.source == ("after" if told else "before")
    assert rig.run(index.recent(1)) == [job_request.job_id if told else other.job_id]
    assert [event["source"] for event in rig.events()][3:] == (["after"] if told else [])


def test_due_moves_only_when_told_and_ends_with_the_job(rig: Rig) -> None:
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


def test_update_says_that_a_cancel_was_asked_for(rig: Rig) -> None:
    job_request = rig.created()
    update = records.update(job_request.job_id, source="test", to=JobState.RUNNING)
    assert not rig.run(update).cancel_requested
    rig.run(records.begin(job_request.job_id))
    rig.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    assert rig.run(update).cancel_requested


# Begin


def test_begin_counts_the_tries(rig: Rig) -> None:
    job_request = rig.created()
    now_s = rig.run(records.time())
    assert [rig.run(records.begin(job_request.job_id)) for _ in range(3)] == [
        (Begun.BEGUN, n) for n in (1, 2, 3)
    ]
    job = rig.job(job_request)
    assert (job.tries, job.state) == (3, JobState.QUEUED)
    assert job.tried_at is not None
    assert job.tried_at.timestamp() == pytest.approx(now_s, abs=5)


def test_nothing_is_begun_that_is_to_be_cancelled(rig: Rig) -> None:
    job_request = rig.created()
    rig.run(records.begin(job_request.job_id))
    rig.run(records.cancel(job_request.job_id, message="Cancelled.", source="test"))
    before = rig.everything()
    assert rig.run(records.begin(job_request.job_id)) == (Begun.CANCELLED, 0)
    assert rig.everything() == before


def test_begin_of_nothing(rig: Rig) -> None:
    assert rig.run(records.begin(random_job_id())) == (Begun.MISSING, 0)
    assert not rig.everything()


# Cancel


@pytest.mark.parametrize("state", sorted(LIVE))
@pytest.mark.parametrize("tries", [0, 1])
@pytest.mark.parametrize("kind", JobKind)
def test_cancel_ends_at_once_what_openai_cannot_be_working_on(
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


def test_cancel_of_nothing(rig: Rig) -> None:
    cancel = records.cancel(random_job_id(), message="Cancelled.", source="test")
    assert rig.run(cancel) is None
    assert not rig.everything()


# What is due


def test_what_is_due_is_taken_once(rig: Rig) -> None:
    job_request, later = rig.created(due_in_s=0), rig.created(due_in_s=LATER_S)
    assert rig.run(records.claim_due(10, hold_s=LATER_S)) == [job_request.job_id]
    assert rig.run(records.claim_due(10, hold_s=LATER_S)) == []
    assert set(rig.due()) == {job_request.job_id, later.job_id}


def test_what_was_taken_is_due_again_when_its_hold_ends(rig: Rig) -> None:
    job_request = rig.created(due_in_s=0)
    claim = records.claim_due(10, hold_s=0.05)
    assert rig.run(claim) == [job_request.job_id]
    until(lambda: rig.run(claim) == [job_request.job_id])


def test_the_longest_due_are_taken_first_up_to_the_limit(rig: Rig) -> None:
    job_requests = [rig.created(due_in_s=-age_s) for age_s in (10, 40, 20, 30)]
    ids = [job_requests[n].job_id for n in (1, 3, 2, 0)]
    claim = records.claim_due(3, hold_s=LATER_S)
    assert [rig.run(claim), rig.run(claim), rig.run(claim)] == [ids[:3], ids[3:], []]


# Forgetting


@pytest.mark.parametrize(
    ("state", "retention_s", "gone"),
    [
        *[(state, EARLIER_S, False) for state in sorted(LIVE)],
        *[(state, LATER_S, False) for state in TERMINAL],
        *[(state, EARLIER_S, True) for state in TERMINAL],
    ],
)
def test_purge_forgets_what_ended_long_ago(
    rig: Rig, state: JobState, retention_s: float, gone: bool
) -> None:
    job_request = rig.in_state(state)
    # A negative retention time is as good as a clock that has gone on.
    assert rig.run(records.purge(job_request.job_id, retention_s=retention_s)) is gone
    assert (rig.run(records.get(job_request.job_id)) is None) is gone
    assert rig.run(index.recent(10)) == ([] if gone else [job_request.job_id])
    assert rig.run(index.counts())[JobKind.BATCH, state] == (0 if gone else 1)


def test_purge_tidies_up_after_a_record_that_was_deleted(rig: Rig) -> None:
    job_request = rig.created(due_in_s=0)
    rig.redis.delete(f"{rig.prefix}:{keys.job(job_request.job_id)}")
    assert rig.run(records.purge(job_request.job_id, retention_s=LATER_S))
    assert not rig.due()
    assert not rig.run(index.recent(10))


def test_a_job_that_was_forgotten_can_be_made_again(rig: Rig) -> None:
    job_request = rig.in_state(JobState.FAILED)
    rig.run(records.purge(job_request.job_id, retention_s=EARLIER_S))
    assert rig.run(records.create(job_request, due_in_s=0)).new
    assert rig.job(job_request).state is JobState.QUEUED
    assert rig.job(job_request).message == ""


# Indexes


def test_recent_has_the_last_change_first(rig: Rig) -> None:
    one, two, three = (rig.created() for _ in range(3))
    rig.changed(one, fields={"message": "Changed."})
    assert rig.run(index.recent(2)) == [one.job_id, three.job_id]
    assert rig.run(index.recent(2, offset=2)) == [two.job_id]


def test_unchanged_since_has_the_oldest_change_first(rig: Rig) -> None:
    one, two, three = (rig.created() for _ in range(3))
    before_three_s = rig.job(two).updated_at.timestamp() + 1e-7
    rig.changed(one, fields={"message": "Changed."})
    assert rig.run(index.unchanged_since(before_three_s, 10)) == [two.job_id]
    now_s = rig.run(records.time()) + 1
    assert rig.run(index.unchanged_since(now_s, 2)) == [two.job_id, three.job_id]
    assert rig.run(index.unchanged_since(now_s, 2, offset=2)) == [one.job_id]
    assert rig.run(index.unchanged_since(now_s - LATER_S, 10)) == []


def test_counts_agree_with_the_records(rig: Rig) -> None:
    assert rig.run(index.counts()) == {}
    expected: dict[tuple[JobKind, JobState], int] = {}
    for number, (kind, state) in enumerate(product(JobKind, JobState), start=1):
        for _ in range(number % 3):
            rig.in_state(state, kind)
        expected[kind, state] = number % 3
    counts = rig.run(index.counts())
    assert {place: counts.get(place, 0) for place in expected} == expected


def test_events_tell_every_transition(rig: Rig) -> None:
    job_request = rig.created()
    rig.changed(
        job_request,
        to=JobState.RUNNING,
        source="submit",
        fields={"openai_status": "validating", "message": "Sent."},
    )
    rig.changed(job_request, to=JobState.SUCCEEDED, source="poll", fields={"message": ""})
    first, second, third = rig.events()
    assert first == {
        "job_id": job_request.job_id,
        "kind": "batch",
        "before": "",
        "state": "queued",
        "openai_status": "",
        "message": "",
        "source": "create",
    }
    assert second == first | {
        "before": "queued",
        "state": "running",
        "openai_status": "validating",
        "message": "Sent.",
        "source": "submit",
    }
    assert (third["before"], third["state"], third["message"]) == ("running", "succeeded", "")


def test_the_events_stream_is_trimmed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_EVENTS", 10)
    job_request = rig.created()
    for number in range(300):
        rig.changed(job_request, fields={"message": f"Message {number}."})
    events = rig.events()
    # Redis drops whole nodes of a hundred.
    assert 10 <= len(events) <= 110
    assert events[-1]["message"] == "Message 299."


# Leases


def test_a_lease_has_one_owner(rig: Rig) -> None:
    assert rig.run(leases.acquire("sweep", "one", ttl_s=60))
    assert not rig.run(leases.acquire("sweep", "two", ttl_s=60))
    assert not rig.run(leases.acquire("sweep", "one", ttl_s=60))
    assert rig.run(leases.acquire("poll:key", "two", ttl_s=60))


def test_a_lease_is_renewed_and_released_only_by_its_owner(rig: Rig) -> None:
    key = f"{rig.prefix}:{keys.lease('sweep')}"
    rig.run(leases.acquire("sweep", "one", ttl_s=60))
    assert not rig.run(leases.renew("sweep", "two", ttl_s=600))
    assert not rig.run(leases.release("sweep", "two"))
    assert rig.redis.pttl(key) <= 60_000
    assert rig.run(leases.renew("sweep", "one", ttl_s=600))
    assert rig.redis.pttl(key) > 500_000
    assert rig.run(leases.release("sweep", "one"))
    assert not rig.run(leases.release("sweep", "one"))
    assert not rig.run(leases.renew("sweep", "one", ttl_s=60))
    assert rig.run(leases.acquire("sweep", "two", ttl_s=60))


def test_a_lease_runs_out(rig: Rig) -> None:
    assert rig.run(leases.acquire("sweep", "dead", ttl_s=0.03))
    until(lambda: rig.run(leases.acquire("sweep", "alive", ttl_s=60)))
    assert not rig.run(leases.renew("sweep", "dead", ttl_s=60))
    assert not rig.run(leases.release("sweep", "dead"))


# Backoff


def waits(rig: Rig, credential: str = "key") -> Backoff | None:
    return rig.run(backoff.current(credential, rig.run(records.time())))


def fail(rig: Rig, retry_after_s: float | None = None, message: str = "Down.") -> float:
    return rig.run(backoff.extend("key", message=message, retry_after_s=retry_after_s))


def end_wait(rig: Rig) -> None:
    """As if the time had gone by."""
    rig.redis.hset(f"{rig.prefix}:{keys.backoff('key')}", "until", "0")


def test_a_failure_makes_everybody_wait(rig: Rig) -> None:
    assert waits(rig) is None
    before_s = rig.run(records.time())
    delay_s = fail(rig)
    assert backoff.FIRST_S / 2 <= delay_s <= backoff.FIRST_S
    wait = rig.run(backoff.current("key", before_s))
    assert wait is not None
    assert wait.seconds_left == pytest.approx(delay_s, abs=5)
    assert wait.message == "Down."
    assert waits(rig, "other") is None


def test_failures_in_a_row_wait_exponentially_longer(rig: Rig) -> None:
    for failure in range(14):
        longest_s = min(backoff.LONGEST_S, backoff.FIRST_S * 2**failure)
        assert longest_s / 2 <= fail(rig) <= longest_s
        end_wait(rig)
    assert waits(rig) is None


def test_failures_of_requests_that_were_under_way_count_as_one(rig: Rig) -> None:
    first_s = fail(rig, retry_after_s=60)
    assert all(fail(rig, message=f"Down {n}.") <= first_s for n in range(20))
    assert rig.raw(keys.backoff("key"))["failures"] == "1"
    end_wait(rig)
    assert fail(rig) <= 2 * backoff.FIRST_S


def test_retry_after_wins_when_it_is_longer(rig: Rig) -> None:
    assert fail(rig, retry_after_s=77) == pytest.approx(77, abs=0.01)
    # Also while one waits already, and not when it is shorter.
    assert fail(rig, retry_after_s=99) == pytest.approx(99, abs=0.01)
    assert fail(rig, retry_after_s=1) == pytest.approx(99, abs=5)
    wait = waits(rig)
    assert wait is not None
    assert wait.seconds_left == pytest.approx(99, abs=5)


@pytest.mark.parametrize("retry_after_s", [0, 0.001, 86_400, 1e9])
def test_no_retry_after_breaks_the_store(rig: Rig, retry_after_s: float) -> None:
    before_s = rig.run(records.time())
    assert fail(rig, retry_after_s=retry_after_s) > 0
    assert rig.run(backoff.current("key", before_s)) is not None


def test_an_answer_ends_the_wait(rig: Rig) -> None:
    fail(rig)
    end_wait(rig)
    fail(rig)
    rig.run(backoff.clear("key"))
    assert waits(rig) is None
    assert fail(rig) <= backoff.FIRST_S


def test_a_backoff_is_forgotten_some_time_after_its_end(rig: Rig) -> None:
    delay_s = fail(rig, retry_after_s=50)
    ttl_s = rig.redis.ttl(f"{rig.prefix}:{keys.backoff('key')}")
    assert delay_s < ttl_s < 10 * delay_s


# Quota queues


QUEUE = "key|m"


def requeue(rig: Rig, job_request: JobRequest, queue: str = QUEUE, **change: Any) -> UpdateOutcome:
    values: dict[str, Any] = {
        "of_batch": records.NO_BATCH,
        "openai_status": "failed",
        "model": "m",
        "source": "test",
        "message": "Waiting",
        "retry_in_s": LATER_S,
        "longest_wait_s": LATER_S,
        "waited_too_long": "Waited too long.",
    }
    command = quota_queues.requeue(queue, job_request.job_id, **values | change)
    return rig.run(command).outcome


def join(rig: Rig, job_request: JobRequest) -> quota_queues.Joined:
    return rig.run(
        quota_queues.join(
            QUEUE, job_request.job_id, source="test", message="Waiting", retry_in_s=LATER_S
        )
    )


def leave(rig: Rig, job_request: JobRequest, *, batch_ended: bool = False) -> str | None:
    """Returns the job that was made due."""
    first = ""
    while True:
        reply = rig.run(quota_queues.advance(QUEUE, job_request.job_id, batch_ended, first=first))
        if reply.done or not reply.first:
            return reply.first
        first = reply.first


def queued(rig: Rig, queue: str = QUEUE) -> list[str]:
    return list(rig.raw(keys.waiting(queue)) or {})


def test_jobs_wait_in_the_order_in_which_they_were_created(rig: Rig) -> None:
    jobs = [rig.created() for _ in range(3)]
    for job_request in (jobs[1], jobs[0], jobs[2], jobs[1]):
        assert requeue(rig, job_request) is UpdateOutcome.APPLIED
    assert queued(rig) == [job_request.job_id for job_request in jobs]
    messages = [rig.job(job_request).message for job_request in jobs]
    assert messages == [
        "Waiting; it is next",
        "Waiting; 1 job is ahead of it",
        "Waiting; 2 jobs are ahead of it",
    ]
    assert rig.job(jobs[0]).model == "m"


def test_a_refused_batch_is_forgotten_and_the_job_waits_since_its_first_refusal(rig: Rig) -> None:
    job_request = rig.created()
    rig.run(records.begin(job_request.job_id))
    rig.changed(job_request, to=JobState.RUNNING, fields={"batch_id": "batch_1"})
    assert requeue(rig, job_request, of_batch="batch_2") is UpdateOutcome.STALE
    assert queued(rig) == []
    assert requeue(rig, job_request, of_batch="batch_1") is UpdateOutcome.APPLIED
    job = rig.job(job_request)
    assert (job.batch_id, job.tries, job.openai_status) == (None, 0, "failed")
    assert job.state is JobState.RUNNING
    assert rig.due()[job_request.job_id] > rig.run(records.time()) + LATER_S / 2
    assert requeue(rig, job_request) is UpdateOutcome.APPLIED
    assert rig.job(job_request).waiting_since == job.waiting_since


def test_a_job_that_waited_too_long_fails(rig: Rig) -> None:
    job_request = rig.created()
    requeue(rig, job_request)
    rig.changed(job_request, fields={"waiting_since": rig.run(records.time()) - 2 * LATER_S})
    requeue(rig, job_request)
    job = rig.job(job_request)
    assert (job.state, job.message) == (JobState.FAILED, "Waited too long.")
    assert job_request.job_id not in rig.due()
    assert requeue(rig, job_request) is UpdateOutcome.REFUSED


def test_a_refusal_ends_a_job_whose_cancellation_was_requested(rig: Rig) -> None:
    job_request = rig.created()
    rig.run(records.begin(job_request.job_id))
    rig.run(records.cancel(job_request.job_id, message="Cancelled by Flyte.", source="test"))
    assert requeue(rig, job_request) is UpdateOutcome.APPLIED
    job = rig.job(job_request)
    assert (job.state, job.message) == (JobState.CANCELLED, "Cancelled by Flyte.")
    assert queued(rig) == []


def test_a_job_without_a_batch_waits_only_behind_others(rig: Rig) -> None:
    first, second = rig.created(), rig.created()
    assert join(rig, first) is quota_queues.Joined.FIRST
    assert rig.job(first).waiting_since is None
    assert join(rig, second) is quota_queues.Joined.APPLIED
    assert rig.job(second).message == "Waiting; 1 job is ahead of it"
    rig.changed(second, fields={"batch_id": "batch_1"})
    assert join(rig, second) is quota_queues.Joined.STALE
    assert rig.run(quota_queues.join("q", "bf-none", source="", message="", retry_in_s=1)) is (
        quota_queues.Joined.MISSING
    )


def test_the_first_that_still_waits_is_made_due(rig: Rig) -> None:
    leaving, ended, admitted, waiting = [rig.created() for _ in range(4)]
    for job_request in (leaving, ended, admitted, waiting):
        requeue(rig, job_request)
    rig.changed(ended, to=JobState.FAILED)
    rig.changed(admitted, fields={"batch_id": "batch_1", "openai_status": "in_progress"})
    assert leave(rig, leaving) == waiting.job_id
    assert queued(rig) == [waiting.job_id]
    assert rig.due()[waiting.job_id] <= rig.run(records.time())


def test_a_job_that_did_not_wait_moves_others_only_if_its_batch_ended(rig: Rig) -> None:
    waiting, other = rig.created(), rig.created()
    requeue(rig, waiting)
    assert leave(rig, other) is None
    assert rig.due()[waiting.job_id] > rig.run(records.time())
    assert leave(rig, other, batch_ended=True) == waiting.job_id
    assert rig.due()[waiting.job_id] <= rig.run(records.time())


def test_queues_are_known_while_jobs_wait_in_them(rig: Rig) -> None:
    first, second = rig.created(), rig.created()
    requeue(rig, first)
    requeue(rig, second)
    requeue(rig, second, "key|n")
    assert rig.run(quota_queues.names()) == [QUEUE, "key|n"]
    assert rig.run(quota_queues.length(QUEUE)) == 2
    leave(rig, second)
    leave(rig, first)
    assert rig.run(quota_queues.names()) == ["key|n"]


# The index


def places(rig: Rig, kind: JobKind, state: JobState, **facet: str) -> list[str]:
    """Ids as the index has them, read two at a time."""
    found: list[index.IndexEntry] = []
    while page := rig.run(
        index.entries(
            index.IndexScope.of(**facet),
            kind,
            state,
            limit=2,
            before=str(found[-1]) if found else "",
        )
    ):
        found += page
    return [listed.job_id for listed in found]


def test_live_jobs_are_listed_by_when_they_were_made(rig: Rig) -> None:
    made = [rig.created() for _ in range(5)]
    rig.changed(made[1], fields={"message": "News."})
    newest_first = [job_request.job_id for job_request in reversed(made)]
    assert places(rig, JobKind.BATCH, JobState.QUEUED) == newest_first
    oldest = rig.run(index.oldest_entry(JobKind.BATCH, JobState.QUEUED))
    assert oldest is not None
    assert oldest.job_id == made[0].job_id
    assert float(oldest.time) == pytest.approx(rig.job(made[0]).created_at.timestamp(), abs=1e-5)


def test_ended_jobs_are_listed_by_when_they_ended(rig: Rig) -> None:
    first, second = rig.created(), rig.created()
    for job_request in (second, first):
        rig.changed(job_request, to=JobState.FAILED)
    assert places(rig, JobKind.BATCH, JobState.FAILED) == [first.job_id, second.job_id]
    assert places(rig, JobKind.BATCH, JobState.QUEUED) == []
    since = index.count_since
    ended_s = rig.job(first).updated_at.timestamp()
    assert rig.run(since(JobKind.BATCH, JobState.FAILED, ended_s - 60)) == 2
    assert rig.run(since(JobKind.BATCH, JobState.FAILED, ended_s + 60)) == 0


def test_jobs_are_listed_under_organization_and_execution(rig: Rig) -> None:
    spec = BatchSpec(credential=Credential(organization="org-a"), input_file_id="file-1", config={})
    job_request = a_job_request(spec=spec, execution="p/d/f123/n0")
    rig.run(records.create(job_request, due_in_s=0))
    rig.created()
    rig.changed(job_request, to=JobState.RUNNING)
    for facet in ({"organization": "org-a"}, {"execution": "f123"}):
        assert places(rig, JobKind.BATCH, JobState.RUNNING, **facet) == [job_request.job_id]
    assert places(rig, JobKind.BATCH, JobState.RUNNING, organization="org-") == []
    rig.changed(job_request, to=JobState.FAILED)
    rig.run(records.purge(job_request.job_id, retention_s=-10))
    assert all(job_request.job_id not in member for member in rig.raw(keys.INDEX))


def test_every_credential_that_was_used_is_known(rig: Rig) -> None:
    spec = BatchSpec(
        credential=Credential(organization="org-a", group="g", key="k"),
        input_file_id="file-1",
        config={},
    )
    rig.run(records.create(a_job_request(spec=spec), due_in_s=0))
    rig.created()
    known = rig.run(index.credentials())
    assert known == {"g/k@org-a": spec.credential, "FLYTE_OPENAI_API_KEY": Credential()}


# History


def test_history_keeps_the_first_and_the_last_of_very_many_changes(rig: Rig) -> None:
    job_request = rig.created()
    for number in range(200):
        rig.changed(job_request, fields={"message": f"Change {number}. " + "ü" * 250})
    entries = rig.job(job_request).history.split("\n")
    assert entries[0].split("\t")[3] == "create"
    assert entries[-1].split("\t")[4].startswith("Change 199.")
    assert 5 < len(entries) < 50
    assert all(len(entry.split("\t")) == 5 for entry in entries)


def test_history_has_a_line_for_a_change_whatever_its_message(rig: Rig) -> None:
    job_request = rig.created()
    rig.changed(job_request, fields={"message": "One\ttwo\nthree\x00."})
    assert len(rig.job(job_request).history.split("\n")) == 2


def test_what_is_added_to_an_ended_job_changes_nothing_else(rig: Rig) -> None:
    job_request = rig.in_state(JobState.SUCCEEDED)
    before, events = rig.job(job_request), len(rig.events())
    assert rig.run(records.annotate(job_request.job_id, {"top_error": "3 x 429"}))
    assert rig.job(job_request) == before.model_copy(update={"top_error": "3 x 429"})
    assert len(rig.events()) == events
    assert not rig.run(records.annotate(random_job_id(), {"top_error": "3 x 429"}))


# Redis


@pytest.mark.parametrize("name", script_names())
def test_every_key_of_a_script_is_declared(name: str) -> None:
    code = re.sub(r"--.*", "", script_source(name))
    calls = re.findall(r"redis\.p?call\('(\w+)'\s*(?:,\s*([\w.\[\]]+))?", code)
    assert calls
    undeclared = [call for call in calls if call[0] != "TIME" and not call[1].startswith("KEYS[")]
    assert not undeclared
    assert "redis.pcall" not in code


def test_the_time_is_that_of_redis(rig: Rig) -> None:
    assert rig.run(records.time()) == pytest.approx(time.time(), abs=5)


def test_a_redis_that_is_away_is_one_error(key_prefix: str, redis_url: str) -> None:
    nobody = Redis.from_url("redis://:hunter2@127.0.0.1:1/0", decode_responses=True)
    with closing(nobody), pytest.raises(StoreUnavailable) as caught:
        JobStore(nobody, key_prefix).run(index.counts())
    assert isinstance(caught.value.__cause__, RedisConnectionError)
    assert "hunter2" not in str(caught.value)
    with (
        loop(AsyncRedis.from_url("redis://127.0.0.1:1/0"), key_prefix) as face,
        pytest.raises(StoreUnavailable),
    ):
        face.run(records.create(a_job_request(), due_in_s=0))


def test_many_commands_in_one_round_trip(redis_url: str, key_prefix: str) -> None:
    with closing(Redis.from_url(redis_url, decode_responses=True)) as redis:
        store = JobStore(redis, key_prefix)
        job_requests = [a_job_request() for _ in range(50)]
        # Scripts that Redis does not know yet go out, too.
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


def test_of_many_workers_one_gets_each_job(redis_url: str, key_prefix: str) -> None:
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
