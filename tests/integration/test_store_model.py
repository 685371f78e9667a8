"""The job store compared with a model in Python, for random sequences of commands."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import uuid4

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis

from batchflow.jobs import Job, random_job_id
from batchflow.states import LIVE, TRANSITIONS, JobKind, JobState, Stage
from batchflow.store import JobStore, index, keys, records
from batchflow.store.records import Begun, CancelResult, DeleteResult, UpdateOutcome
from tests.kit.job_requests import a_job_request

KINDS = (JobKind.BATCH, JobKind.BATCH, JobKind.UPLOAD, JobKind.DOWNLOAD)
COUNTS = ("total", "completed", "failed")
#: Far in the past and the future, so that no test depends on its speed.
NOW_S, LATER_S = -1_000, 1_000

job_numbers = st.integers(0, len(KINDS) - 1)
states = st.none() | st.sampled_from(JobState)
stages = st.none() | st.sampled_from(Stage)
delays = st.sampled_from([NOW_S, LATER_S])
dues = st.none() | delays
attempts = st.integers(0, 1)
counts = st.fixed_dictionaries({}, optional={name: st.integers(0, 9) for name in COUNTS})
texts = st.fixed_dictionaries(
    {},
    optional={
        "message": st.sampled_from([None, "One.", "Two."]),
        "openai_status": st.sampled_from(["validating", "in_progress", "paused"]),
        "batch_id": st.sampled_from([None, "batch_1", "batch_2"]),
    },
)
of_batches = st.sampled_from(["", "batch_1", records.NO_BATCH])


@dataclass(frozen=True)
class ModelJob:
    """A job in the model: what the results of commands depend on, and what the record has."""

    kind: JobKind
    state: JobState = JobState.QUEUED
    stage: Stage = Stage.NONE
    tries: int = 0
    cancel_requested: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    due_now: bool = False
    attempt: int = 0
    #: The delay after which it is cancelled, if Flyte deleted its task.
    deleted: int | None = None
    replaced: bool = False

    @property
    def live(self) -> bool:
        return self.state in LIVE

    def seen(self) -> tuple[object, ...]:
        """The values whose change is an event."""
        return self.state, self.texts.get("message", ""), self.texts.get("openai_status", "")

    @classmethod
    def of(cls, job: Job, due_now: bool, now_s: float) -> "ModelJob":
        """The expected fields of a record."""
        deleted = None
        if job.delete_at:
            deleted = NOW_S if job.delete_at.timestamp() <= now_s else LATER_S
        texts = {name: getattr(job, name) for name in ("message", "openai_status", "batch_id")}
        return cls(
            kind=job.kind,
            state=job.state,
            stage=job.stage,
            tries=job.tries,
            cancel_requested=job.cancel_requested,
            texts={name: text for name, text in texts.items() if text},
            counts={name: n for name in COUNTS if (n := getattr(job, name))},
            due_now=due_now,
            attempt=job.attempt,
            deleted=deleted,
            replaced=job.replaced,
        )


class StoreMachine(RuleBasedStateMachine):
    """Commands about a few jobs, in any order."""

    def __init__(self, redis: Redis) -> None:
        super().__init__()
        self.redis: Any = redis
        self.prefix = f"model-{uuid4()}"
        self.store = JobStore(redis, self.prefix)
        self.job_requests = [a_job_request(kind, job_id=random_job_id()) for kind in KINDS]
        self.model: dict[str, ModelJob] = {}
        #: Ids by their last change, oldest first.
        self.changes: list[str] = []
        self.events = 0

    def changed(self, job_id: str, after: ModelJob, *, is_event: bool) -> None:
        self.model[job_id] = after
        if is_event:
            self.changes = [other for other in self.changes if other != job_id] + [job_id]
            self.events += 1

    @rule(number=job_numbers, due_in_s=delays, rebuilt=st.booleans(), attempt=attempts)
    def create(self, number: int, due_in_s: int, rebuilt: bool, attempt: int) -> None:
        job_request = self.job_requests[number].model_copy(update={"attempt": attempt})
        command = records.create(job_request, due_in_s=due_in_s, rebuilt=rebuilt)
        assert self.store.run(command).new is (job_request.job_id not in self.model)
        if before := self.model.get(job_request.job_id):
            if before.live and attempt > before.attempt and before.cancel_requested:
                after = replace(before, replaced=True)
                self.changed(job_request.job_id, after, is_event=False)
            elif before.live and attempt > before.attempt:
                after = replace(before, attempt=attempt, deleted=None)
                self.changed(job_request.job_id, after, is_event=True)
            return
        fresh = ModelJob(
            KINDS[number], due_now=due_in_s == NOW_S, attempt=attempt, tries=min(attempt, 1)
        )
        if rebuilt:
            message = self.record(job_request.job_id).message
            fresh = replace(
                fresh,
                state=JobState.RUNNING,
                stage=Stage.IN_PROGRESS,
                tries=1,
                texts={"message": message},
            )
        self.changed(job_request.job_id, fresh, is_event=True)

    @rule(
        number=job_numbers,
        to=states,
        stage=stages,
        due_in_s=dues,
        grown=counts,
        said=texts,
        of_batch=of_batches,
    )
    def update(
        self,
        number: int,
        to: JobState | None,
        stage: Stage | None,
        due_in_s: int | None,
        grown: dict[str, int],
        said: dict[str, str | None],
        of_batch: str,
    ) -> None:
        job_id = self.job_requests[number].job_id
        answer = self.store.run(
            records.update(
                job_id,
                source="model",
                to=to,
                stage=stage,
                due_in_s=due_in_s,
                of_batch=of_batch,
                fields={**grown, **said},
            )
        )
        before = self.model.get(job_id)
        if before is None:
            assert answer.outcome is UpdateOutcome.MISSING
            return
        if not before.live or (to and to not in TRANSITIONS[before.state]):
            assert (answer.outcome, answer.state) == (UpdateOutcome.REFUSED, before.state)
            return
        assert answer.cancel_requested is before.cancel_requested
        batch_id = before.texts.get("batch_id")
        late = stage is not None and Stage.NONE < stage < before.stage
        other = of_batch and batch_id != (None if of_batch == records.NO_BATCH else of_batch)
        after = before
        if due_in_s is not None:
            after = replace(before, due_now=NOW_S in (due_in_s, before.deleted))
        if late or other:
            assert (answer.outcome, answer.state) == (UpdateOutcome.STALE, before.state)
            self.changed(job_id, after, is_event=False)
            return
        spoken = {**before.texts, **said}
        if before.cancel_requested and (to is None or not to.terminal):
            # The message says who requested the cancellation.
            spoken["message"] = before.texts.get("message")
        after = replace(
            after,
            state=to or before.state,
            stage=max(before.stage, stage or Stage.NONE),
            texts={name: text for name, text in spoken.items() if text},
            counts={
                name: most
                for name in COUNTS
                if (most := max(before.counts.get(name, 0), grown.get(name, 0)))
            },
        )
        if not after.live:
            after = replace(after, due_now=False)
        assert (answer.outcome, answer.state) == (UpdateOutcome.APPLIED, after.state)
        self.changed(job_id, after, is_event=after.seen() != before.seen())

    @rule(number=job_numbers)
    def begin(self, number: int) -> None:
        job_id = self.job_requests[number].job_id
        this_try = self.store.run(records.begin(job_id))
        begun, tries = this_try.begun, this_try.number
        before = self.model.get(job_id)
        if before is None:
            assert begun is Begun.MISSING
        elif not before.live or before.texts.get("batch_id"):
            assert begun is Begun.REFUSED
        elif before.cancel_requested:
            assert begun is Begun.CANCELLED
        else:
            assert (begun, tries) == (Begun.BEGUN, before.tries + 1)
            self.changed(job_id, replace(before, tries=tries), is_event=False)

    @rule(number=job_numbers)
    def cancel(self, number: int) -> None:
        job_id = self.job_requests[number].job_id
        what = self.store.run(records.cancel(job_id, message="Cancelled.", source="model"))
        before = self.model.get(job_id)
        if before is None:
            assert what is None
            return
        if not before.live:
            assert what is CancelResult.ENDED
            return
        self.cancelled(job_id, before, what, "Cancelled.")

    def cancelled(
        self, job_id: str, before: ModelJob, what: CancelResult | None, message: str
    ) -> None:
        at_openai = before.kind is JobKind.BATCH and before.tries > 0
        assert what is (CancelResult.REQUESTED if at_openai else CancelResult.CANCELLED)
        after = replace(
            before,
            state=before.state if at_openai else JobState.CANCELLED,
            cancel_requested=True,
            texts=before.texts | {"message": message},
            due_now=at_openai,
            deleted=None,
        )
        self.changed(job_id, after, is_event=True)

    @rule(number=job_numbers, attempt=attempts, delay_s=delays)
    def delete_task(self, number: int, attempt: int, delay_s: int) -> None:
        job_id = self.job_requests[number].job_id
        what = self.store.run(records.delete_task(job_id, attempt=attempt, delay_s=delay_s))
        before = self.model.get(job_id)
        if before is None:
            assert what is None
        elif before.attempt > attempt:
            assert what is DeleteResult.SUPERSEDED
        elif not before.live:
            assert what is DeleteResult.ENDED
        else:
            assert what is DeleteResult.SCHEDULED
            if not before.cancel_requested and before.deleted is None:
                due_now = before.due_now or delay_s == NOW_S
                after = replace(before, deleted=delay_s, due_now=due_now)
                self.changed(job_id, after, is_event=True)

    @rule(number=job_numbers)
    def cancel_deleted(self, number: int) -> None:
        job_id = self.job_requests[number].job_id
        what = self.store.run(records.cancel_deleted(job_id))
        before = self.model.get(job_id)
        if before is None:
            assert what is None
        elif not before.live:
            assert what is CancelResult.ENDED
        elif before.deleted == NOW_S:
            self.cancelled(job_id, before, what, "Cancelled by Flyte.")
        else:
            assert what is None

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        due = {job_id for job_id, job in self.model.items() if job.due_now}
        taken = self.store.run(records.claim_due(limit, hold_s=LATER_S))
        assert set(taken) <= due
        assert len(taken) == len(set(taken)) == min(limit, len(due))
        for job_id in taken:
            self.changed(job_id, replace(self.model[job_id], due_now=False), is_event=False)

    @rule(number=job_numbers, retention_s=st.sampled_from([NOW_S, LATER_S]))
    def purge(self, number: int, retention_s: int) -> None:
        job_id = self.job_requests[number].job_id
        gone = self.store.run(records.purge(job_id, retention_s=retention_s))
        job = self.model.get(job_id)
        assert gone is (job is None or (not job.live and retention_s == NOW_S))
        if gone and job:
            del self.model[job_id]
            self.changes.remove(job_id)

    def record(self, job_id: str) -> Job:
        job = self.store.run(records.get(job_id))
        assert job is not None
        return job

    def index(self, name: str) -> dict[str, float]:
        return dict(self.redis.zrange(f"{self.prefix}:{name}", 0, -1, withscores=True))

    @invariant()
    def records_are_as_the_model_says(self) -> None:
        due, now_s = self.index(keys.DUE), self.store.run(records.time())
        for job_request in self.job_requests:
            job = self.store.run(records.get(job_request.job_id))
            due_now = due.get(job_request.job_id, now_s + LATER_S) <= now_s
            found = None if job is None else ModelJob.of(job, due_now, now_s)
            assert found == self.model.get(job_request.job_id)

    @invariant()
    def exactly_the_live_jobs_are_due_some_time(self) -> None:
        assert set(self.index(keys.DUE)) == {id_ for id_, job in self.model.items() if job.live}

    @invariant()
    def counts_agree_with_the_records(self) -> None:
        counted = self.store.run(index.counts())
        assert Counter(counted) == Counter((job.kind, job.state) for job in self.model.values())
        assert all(number >= 0 for number in counted.values())

    @invariant()
    def recent_has_all_jobs_by_their_last_change(self) -> None:
        scores = self.index(keys.RECENT)
        assert set(scores) == set(self.changes) == set(self.model)
        # Two changes may have the same time, so the order of ids is not compared.
        in_order = [scores[job_id] for job_id in self.changes]
        assert in_order == sorted(in_order)
        for job_id, score in scores.items():
            assert score == pytest.approx(self.record(job_id).updated_at.timestamp(), abs=1e-5)

    @invariant()
    def the_index_has_every_job_in_its_place(self) -> None:
        places = set()
        for job_id in self.model:
            record = self.redis.hgetall(f"{self.prefix}:{keys.job(job_id)}")
            live = JobState(record["state"]) in LIVE
            time_s = record["created_at"] if live else record["updated_at"]
            places.add(f"all {record['kind']} {record['state']} {time_s} {job_id}")
        assert set(self.index(keys.INDEX)) == places

    @invariant()
    def every_change_was_told(self) -> None:
        assert self.redis.xlen(f"{self.prefix}:{keys.EVENTS}") == self.events


@pytest.fixture(params=["fakeredis", "redis"])
def redis(request: pytest.FixtureRequest) -> Iterator[Redis]:
    client: Redis
    if request.param == "fakeredis":
        client = cast(Redis, fakeredis.FakeRedis(decode_responses=True))
    else:
        url = request.getfixturevalue("redis_url")
        client = Redis.from_url(url, decode_responses=True)
    with closing(client):
        yield client


def test_the_store_behaves_like_its_model(redis: Redis) -> None:
    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(redis)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
