"""OpenAI's limit of enqueued tokens: jobs over it wait in order and are submitted again."""

import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from batchflow_workers.observation import Observation
from batchflow_workers.policy import Policy
from batchflow_workers.reconcile import reconcile

from batchflow.jobs import Job
from batchflow.openai_client import client
from batchflow.openai_client.client import connect_openai
from batchflow.settings import Settings
from batchflow.states import JobState, Phase
from batchflow.store import keys, records
from batchflow.store.records import CancelResult
from tests.kit.emulator import Emulator
from tests.kit.job_requests import a_job_request
from tests.kit.workers import MakeWorkers, Workers, lines, wait_in_queue

MODEL = "gpt-test"
CONFIG = {"model": MODEL}
WAITING = f"Waiting for quota: OpenAI's limit of enqueued tokens for {MODEL} is reached; "
#: With this poll interval no job retries by itself during a test.
SLOW_POLL_S = 60.0
#: When a waiting job retries by itself.
RETRY_S = Policy().quota_retry_intervals * SLOW_POLL_S
QUOTA_WAIT_S = 3_600.0
#: The enqueued tokens of one batch: three requests, each with one, as the emulator counts them.
BATCH_TOKENS = 3


@pytest.fixture
def workers(make_workers: MakeWorkers, request: pytest.FixtureRequest) -> Workers:
    """Workers whose waiting jobs do not retry by themselves during a test."""
    values = {"poll_interval_s": SLOW_POLL_S, "quota_wait_s": QUOTA_WAIT_S}
    return make_workers(**values | getattr(request, "param", {}))


quick = pytest.mark.parametrize("workers", [{"poll_interval_s": 0.05}], indirect=True)


def refused(workers: Workers, *, config: dict[str, Any] | None = None, **batch: Any) -> str:
    """A job whose batch was over the limit."""
    job_id = workers.submitted(config=CONFIG if config is None else config, **batch)
    refuse(workers, job_id)
    return job_id


def all_refused(workers: Workers, count: int) -> list[str]:
    """Jobs that were submitted together, and whose batches were all over the limit."""
    jobs = [workers.submitted(config=CONFIG) for _ in range(count)]
    for job_id in jobs:
        refuse(workers, job_id)
    return jobs


def refuse(workers: Workers, job_id: str) -> None:
    """End a job's batch as over the limit, and poll it."""
    batch_id = str(workers.job(job_id).batch_id)
    workers.emulator.end(batch_id, "failed", code="token_limit_exceeded")
    workers.poll(job_id)
    assert workers.job(job_id).openai_status == "failed"


def running(workers: Workers, **batch: Any) -> str:
    """A job whose batch is in progress."""
    job_id = workers.submitted(**{"config": CONFIG} | batch)
    admit(workers, job_id)
    return job_id


def admit(workers: Workers, job_id: str) -> None:
    workers.poll_until(job_id, lambda job: job.openai_status == "in_progress")


def is_in_progress(workers: Workers, job_id: str) -> bool:
    return workers.job(job_id).openai_status == "in_progress"


def end(workers: Workers, job_id: str) -> None:
    """Complete a job's batch, and poll it."""
    workers.emulator.end(str(workers.job(job_id).batch_id))
    workers.poll(job_id)
    assert workers.job(job_id).succeeded


def message(ahead: int) -> str:
    positions = {0: "it is next", 1: "1 job is ahead of it"}
    return WAITING + positions.get(ahead, f"{ahead} jobs are ahead of it")


def waits(job: Job) -> bool:
    return not job.terminal and job.batch_id is None and job.waiting_since is not None


def live(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [batch for batch in batches if batch["status"] != "failed"]


def queue_of(workers: Workers) -> list[str]:
    """The jobs in the quota queue, the first one first."""
    queue = workers.redis_key(keys.waiting(f"{workers.credential()}|{MODEL}"))
    ids: Any = workers.store.redis.zrange(queue, 0, -1)
    return list(ids)


# Waiting


def test_a_job_waits_and_says_so(workers: Workers) -> None:
    before = time.time()
    job_id = refused(workers)
    job = workers.job(job_id)
    assert waits(job)
    assert job.waiting_since is not None
    assert before - 1 < job.waiting_since.timestamp() < time.time() + 1
    assert (job.state, workers.phase(job_id)) == (JobState.RUNNING, Phase.WAITING_FOR_RESOURCES)
    assert (job.message, job.tries) == (message(0), 0)
    assert workers.due_in_s(job_id) == pytest.approx(RETRY_S, abs=5)
    assert workers.runtime.settings.quota_wait_s == QUOTA_WAIT_S
    assert Settings().quota_wait_s == 86_400
    assert len(workers.batches()) == 1


def test_messages_have_positions_whatever_the_order_of_the_refusals(workers: Workers) -> None:
    jobs = [workers.submitted(config=CONFIG) for _ in range(4)]
    for number in (2, 1, 3, 0):
        refuse(workers, jobs[number])
    assert queue_of(workers) == jobs
    for ahead, job_id in enumerate(jobs):
        workers.step(job_id) if ahead else None
        assert workers.job(job_id).message == message(ahead)


def test_one_page_of_refusals_gives_each_job_its_position(workers: Workers) -> None:
    jobs = [workers.submitted(config=CONFIG) for _ in range(3)]
    for job_id in jobs:
        batch_id = str(workers.job(job_id).batch_id)
        workers.emulator.end(batch_id, "failed", code="token_limit_exceeded")
    with workers.calls(batches_list=1, batches_retrieve=0):
        workers.poll(*jobs)
    assert sorted(workers.job(job_id).message for job_id in jobs) == sorted(map(message, range(3)))
    assert queue_of(workers) == jobs


def test_a_new_job_joins_the_queue(workers: Workers) -> None:
    first = refused(workers)
    later = workers.batch(config=CONFIG)
    with workers.calls(batches_create=0):
        workers.step(later)
    job = workers.job(later)
    assert waits(job)
    assert (job.message, job.state) == (message(1), JobState.QUEUED)
    assert workers.phase(later) is Phase.WAITING_FOR_RESOURCES
    assert workers.due_in_s(later) == pytest.approx(RETRY_S, abs=5)
    workers.step(first)
    assert len(workers.batches_of(first)) == 2
    assert not workers.batches_of(later)


def test_an_older_job_is_not_held_up(workers: Workers) -> None:
    old = workers.batch(config=CONFIG)
    refused(workers)
    workers.step(old)
    assert workers.job(old).batch_id


@pytest.mark.parametrize(
    "other",
    [
        {"config": {"model": "gpt-other"}},
        {"credential": {"key": "OTHER_KEY"}, "config": CONFIG},
        {"credential": {"organization": "org-other"}, "config": CONFIG},
    ],
    ids=["model", "key", "organization"],
)
def test_jobs_of_another_queue_are_not_held_up(
    workers: Workers, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_OTHER_KEY", "sk-test-another-key")
    refused(workers)
    credential = workers.credential().model_copy(update=other.get("credential"))
    file_id = workers.emulator.upload(str(credential.organization), lines())
    job_id = workers.batch(file_id, config=other["config"], credential=credential)
    workers.step(job_id)
    assert workers.job(job_id).batch_id


# Submitting again


def test_the_first_is_submitted_again_when_a_batch_ends(workers: Workers) -> None:
    ending = running(workers)
    jobs = all_refused(workers, 3)
    end(workers, ending)
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in jobs] == [2, 1, 1]
    admit(workers, jobs[0])
    assert workers.job(jobs[0]).waiting_since is None
    assert workers.phase(jobs[0]) is Phase.RUNNING
    assert queue_of(workers) == jobs[1:]
    # An admitted batch shows that there may be room for another.
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in jobs] == [2, 2, 1]


def test_a_job_that_is_refused_again_keeps_its_position(workers: Workers) -> None:
    ending = running(workers)
    first, second = all_refused(workers, 2)
    since = workers.job(first).waiting_since
    end(workers, ending)
    workers.work()
    refuse(workers, first)
    assert queue_of(workers) == [first, second]
    assert workers.job(first).waiting_since == since
    assert workers.job(first).message == message(0)
    assert workers.phase(first) is Phase.WAITING_FOR_RESOURCES


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_any_end_makes_room(workers: Workers, status: str) -> None:
    ending, waiting = running(workers), refused(workers)
    workers.emulator.end(str(workers.job(ending).batch_id), status)
    workers.poll(ending)
    workers.work()
    assert len(workers.batches_of(waiting)) == 2


def test_an_end_seen_on_the_same_page_as_a_refusal_makes_room(workers: Workers) -> None:
    ending = running(workers)
    waiting = workers.submitted(config=CONFIG)
    workers.emulator.end(str(workers.job(ending).batch_id))
    batch_id = str(workers.job(waiting).batch_id)
    workers.emulator.end(batch_id, "failed", code="token_limit_exceeded")
    workers.poll(ending, waiting)
    workers.work()
    assert len(workers.batches_of(waiting)) == 2


@quick
def test_a_job_retries_without_any_other_batch(workers: Workers, emulator: Emulator) -> None:
    emulator.configure(in_progress_s=0)
    emulator.next("failed", code="token_limit_exceeded", count=2)
    job_id = workers.batch(config=CONFIG)
    phases = [workers.phase(job_id)]

    def ended() -> bool:
        phases.append(workers.phase(job_id))
        return workers.job(job_id).terminal

    workers.work_until(ended, "the end of the job")
    assert workers.job(job_id).succeeded
    assert len(live(workers.batches_of(job_id))) == 1
    assert len(workers.batches_of(job_id)) == 3
    assert phases[0] is Phase.INITIALIZING
    assert Phase.WAITING_FOR_RESOURCES in phases
    started = phases.index(Phase.RUNNING) if Phase.RUNNING in phases else len(phases) - 1
    assert set(phases[started:]) <= {Phase.RUNNING, Phase.SUCCEEDED}


@quick
def test_a_limit_of_one_batch_admits_all_jobs_in_order(
    workers: Workers, emulator: Emulator
) -> None:
    emulator.configure(enqueued_token_limit=BATCH_TOKENS, in_progress_s=3_600)
    jobs = [running(workers), *(workers.batch(config=CONFIG) for _ in range(5))]
    workers.work_until(lambda: queue_of(workers) == jobs[1:], "the others to wait")
    for ending, next_one in pairwise(jobs):
        end(workers, ending)
        is_next = partial(is_in_progress, workers, next_one)
        workers.work_until(is_next, f"the batch of {next_one} to be admitted")
    end(workers, jobs[-1])
    assert len(live(workers.batches())) == len(jobs)
    assert queue_of(workers) == []


# One queue per model


def test_the_model_is_known_from_the_upload(workers: Workers, tmp_path: Path) -> None:
    """A config that names no model is usual: OpenAI's call has no such parameter."""
    (tmp_path / "in.jsonl").write_bytes(lines())
    upload_id = workers.upload(f"{tmp_path}/in.jsonl")
    workers.step(upload_id)
    file_id = str(workers.job(upload_id).input_file_id)
    first = refused(workers, file_id=file_id, config={})
    later = workers.batch(file_id, config={})
    workers.step(later)
    assert workers.job(later).message == message(1)
    assert workers.job(later).model == MODEL
    assert queue_of(workers) == [first, later]


def test_the_queue_goes_by_the_model_that_was_asked_for(workers: Workers) -> None:
    """OpenAI shows the exact version of it: the file has one, the config an alias."""
    alias = {"model": "gpt"}
    ending, waiting = running(workers, config=alias), refused(workers, config=alias)
    assert workers.job(ending).model == workers.job(waiting).model == "gpt"
    end(workers, ending)
    workers.work()
    assert len(workers.batches_of(waiting)) == 2


# Cancellation


def test_a_job_cancelled_while_it_waits_leaves_the_queue(workers: Workers) -> None:
    ending = running(workers)
    first, second = all_refused(workers, 2)
    assert workers.request_cancel(first) is CancelResult.CANCELLED
    assert workers.job(first).state is JobState.CANCELLED
    end(workers, ending)
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in (first, second)] == [1, 2]
    assert workers.job(first).message == "Cancelled by Flyte."


def test_a_job_behind_a_cancelled_one_retries_by_itself(workers: Workers) -> None:
    first, second = all_refused(workers, 2)
    workers.request_cancel(first)
    workers.make_due(second)
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in (first, second)] == [1, 2]
    assert queue_of(workers) == [second]


@pytest.mark.parametrize("seen", ["before", "after"])
def test_a_refusal_ends_a_job_whose_cancellation_was_requested(workers: Workers, seen: str) -> None:
    """Whether the job was read before or after its cancellation was requested."""
    job_id = workers.submitted(config=CONFIG)
    behind = workers.batch(config=CONFIG)
    wait_in_queue(workers.store, f"{workers.credential()}|{MODEL}", behind)
    job = workers.job(job_id)
    assert workers.request_cancel(job_id) is CancelResult.REQUESTED
    if seen == "after":
        job = workers.job(job_id)
    workers.emulator.end(str(job.batch_id), "failed", code="token_limit_exceeded")
    batch = connect_openai(job.spec.credential, 5).retrieve_batch(str(job.batch_id))
    reconcile(workers.runtime, [Observation(job, batch)], "poll")
    workers.work()
    assert workers.job(job_id).state is JobState.CANCELLED
    assert workers.job(job_id).message.startswith("Cancelled")
    assert len(workers.batches_of(job_id)) == 1
    assert len(workers.batches_of(behind)) == 1


def test_a_job_to_be_cancelled_does_not_wait(workers: Workers, emulator: Emulator) -> None:
    """The second try never reached OpenAI, and its outcome is unknown."""
    first, job_id = all_refused(workers, 2)
    workers.change(job_id, tries=1, settled_at=0)
    assert workers.request_cancel(job_id) is CancelResult.REQUESTED
    workers.work()
    assert workers.job(job_id).state is JobState.CANCELLED
    assert len(workers.batches_of(job_id)) == 1
    assert waits(workers.job(first))


# Failure


def test_a_job_fails_after_the_longest_wait(workers: Workers) -> None:
    job_id, behind = all_refused(workers, 2)
    workers.change(job_id, waiting_since=time.time() - QUOTA_WAIT_S + 60)
    workers.step(job_id)
    refuse(workers, job_id)
    assert waits(workers.job(job_id))
    workers.change(job_id, waiting_since=time.time() - QUOTA_WAIT_S - 1)
    workers.step(job_id)
    refuse(workers, job_id)
    job = workers.job(job_id)
    assert job.state is JobState.FAILED
    assert job.message.startswith("OpenAI had no quota within 1 h. Enqueued token limit reached")
    assert queue_of(workers) == [behind]
    workers.work()
    assert len(workers.batches_of(behind)) == 2


def test_other_failures_are_failures(workers: Workers) -> None:
    job_id = workers.submitted(config=CONFIG)
    workers.emulator.end(str(workers.job(job_id).batch_id), "failed", code="empty_file")
    workers.poll(job_id)
    assert workers.job(job_id).state is JobState.FAILED
    assert queue_of(workers) == []


# Late observations and lost replies


@pytest.mark.parametrize("admitted", [False, True])
def test_a_late_observation_of_an_earlier_batch(workers: Workers, admitted: bool) -> None:
    job_id = workers.submitted(config=CONFIG)
    before = workers.job(job_id)
    workers.emulator.configure(in_progress_s=600, validating_s=0 if admitted else 600)
    refuse(workers, job_id)
    batch = connect_openai(before.spec.credential, 5).retrieve_batch(str(before.batch_id))
    workers.step(job_id)
    if admitted:
        admit(workers, job_id)
    now, queue = workers.job(job_id), queue_of(workers)
    assert queue == ([] if admitted else [job_id])
    for job in (before, now):
        reconcile(workers.runtime, [Observation(job, batch)], "poll")
    assert workers.job(job_id) == now
    assert queue_of(workers) == queue
    assert now.batch_id != before.batch_id


@pytest.mark.parametrize("after_acting", [True, False])
def test_a_lost_reply_during_the_second_try(workers: Workers, after_acting: bool) -> None:
    job_id = refused(workers)
    workers.emulator.outage(
        answer="drop", after_acting=after_acting, operations=["batches.create"], count=1
    )
    workers.step(job_id)
    assert workers.job(job_id).tries == 1
    workers.end_backoff()
    workers.step(job_id)
    [batch] = live(workers.batches_of(job_id))
    assert workers.job(job_id).batch_id == batch["id"]
    assert len(workers.batches_of(job_id)) == 2


def test_redis_is_emptied_while_a_job_waits(workers: Workers) -> None:
    job_request = a_job_request(spec=workers.job(workers.batch(config=CONFIG)).spec)
    refused_job = workers.created(job_request)
    workers.step(refused_job)
    refuse(workers, refused_job)
    workers.empty_redis()
    workers.emulator.configure(validating_s=600)
    workers.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    assert workers.phase(refused_job) is Phase.RUNNING
    workers.settle(refused_job)
    workers.work()
    [batch] = live(workers.batches_of(refused_job))
    assert len(workers.batches_of(refused_job)) == 2
    # The record has it at once, though OpenAI is still validating it.
    assert workers.job(refused_job).batch_id == batch["id"]
    assert workers.phase(refused_job) is Phase.RUNNING
    refuse(workers, refused_job)
    assert waits(workers.job(refused_job))
    assert workers.phase(refused_job) is Phase.RUNNING
    assert queue_of(workers) == [refused_job]


def test_redis_is_emptied_and_the_batch_is_far_down_the_list(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    # All batches count as created long before the record, which was rebuilt just now.
    monkeypatch.setattr(client, "_CLOCK_SKEW_S", -60)
    job_request = a_job_request(spec=workers.job(running(workers)).spec)
    workers.step(workers.created(job_request))
    for _ in range(4):
        workers.submitted(config=CONFIG)
    workers.empty_redis()
    workers.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    workers.settle(job_request.job_id)
    workers.work()
    [batch] = workers.batches_of(job_request.job_id)
    assert workers.job(job_request.job_id).batch_id == batch["id"]
