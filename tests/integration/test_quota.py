"""OpenAI's limit of enqueued tokens: who exceeds it waits, in order, and goes again."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batchflow_workers.observation import Observation
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
from tests.kit.runtime import Team, team
from tests.kit.steps import lines, wait_in_queue

MODEL = "gpt-test"
CONFIG = {"model": MODEL}
WAITING = f"Waiting for quota: OpenAI's limit of enqueued tokens for {MODEL} is reached; "
#: Nothing goes again by itself during a test with this poll interval.
SLOW = 60.0
#: Poll intervals after which the first in line tries again by itself.
PATIENCE_POLLS = 20
QUOTA_WAIT_S = 3_600.0


@pytest.fixture
def workers(
    emulator: Emulator,
    settings: Callable[..., Settings],
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Team]:
    """Workers whose waiting jobs stand still unless they are moved."""
    values = {"poll_interval_s": SLOW, "quota_wait_s": QUOTA_WAIT_S, "allowed_uris": f"{tmp_path}/"}
    values |= getattr(request, "param", {})
    with team(emulator, settings, key_prefix, monkeypatch, **values) as workers:
        yield workers


quick = pytest.mark.parametrize("workers", [{"poll_interval_s": 0.05}], indirect=True)


def refused(workers: Team, *, config: dict[str, Any] | None = None, **batch: Any) -> str:
    """A job whose batch OpenAI had no capacity for."""
    job_id = workers.submitted(config=CONFIG if config is None else config, **batch)
    refuse(workers, job_id)
    return job_id


def all_refused(workers: Team, count: int) -> list[str]:
    """Jobs that were sent together, and OpenAI had no capacity for any."""
    jobs = [workers.submitted(config=CONFIG) for _ in range(count)]
    for job_id in jobs:
        refuse(workers, job_id)
    return jobs


def refuse(workers: Team, job_id: str) -> None:
    """OpenAI has no capacity for the batch that a job has."""
    batch_id = str(workers.job(job_id).batch_id)
    workers.emulator.end(batch_id, "failed", code="token_limit_exceeded")
    workers.poll(job_id)
    assert workers.job(job_id).openai_status == "failed"


def running(workers: Team, **batch: Any) -> str:
    """A job whose batch OpenAI works on."""
    job_id = workers.submitted(**{"config": CONFIG} | batch)
    admit(workers, job_id)
    return job_id


def admit(workers: Team, job_id: str) -> None:
    def in_progress() -> bool:
        workers.poll(job_id)
        return workers.job(job_id).openai_status == "in_progress"

    workers.work_until(in_progress, "a batch in progress")


def end(workers: Team, job_id: str) -> None:
    """A job's batch is completed, and that is seen."""
    workers.emulator.end(str(workers.job(job_id).batch_id))
    workers.poll(job_id)
    assert workers.job(job_id).succeeded


def message(ahead: int) -> str:
    places = {0: "it is next", 1: "1 job is ahead of it"}
    return WAITING + places.get(ahead, f"{ahead} jobs are ahead of it")


def waits(job: Job) -> bool:
    return not job.terminal and job.batch_id is None and job.waiting_since is not None


def live(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [batch for batch in batches if batch["status"] != "failed"]


def line_of(workers: Team, model: str = MODEL) -> list[str]:
    """Who stands in line, the first one first."""
    line = workers.redis_key(keys.waiting(f"{workers.credential()}|{model}"))
    ids: Any = workers.runtime.store.redis.zrange(line, 0, -1)
    return list(ids)


# It waits


def test_a_job_waits_and_says_so(workers: Team) -> None:
    before = time.time()
    job_id = refused(workers)
    job = workers.job(job_id)
    assert waits(job)
    assert job.waiting_since is not None
    assert before - 1 < job.waiting_since.timestamp() < time.time() + 1
    assert (job.state, workers.phase(job_id)) == (JobState.RUNNING, Phase.INITIALIZING)
    assert (job.message, job.tries) == (message(0), 0)
    assert workers.due_in_s(job_id) == pytest.approx(PATIENCE_POLLS * SLOW, abs=5)
    assert workers.runtime.settings.quota_wait_s == QUOTA_WAIT_S
    assert Settings().quota_wait_s == 86_400
    assert len(workers.batches()) == 1


def test_each_knows_its_place_whatever_order_they_are_refused_in(workers: Team) -> None:
    jobs = [workers.submitted(config=CONFIG) for _ in range(4)]
    for number in (2, 1, 3, 0):
        refuse(workers, jobs[number])
    assert line_of(workers) == jobs
    for ahead, job_id in enumerate(jobs):
        workers.step(job_id) if ahead else None
        assert workers.job(job_id).message == message(ahead)


def test_all_that_a_page_shows_as_refused_learn_their_places(workers: Team) -> None:
    jobs = [workers.submitted(config=CONFIG) for _ in range(3)]
    for job_id in jobs:
        batch_id = str(workers.job(job_id).batch_id)
        workers.emulator.end(batch_id, "failed", code="token_limit_exceeded")
    with workers.calls(batches_list=1, batches_retrieve=0):
        workers.poll(*jobs)
    assert sorted(workers.job(job_id).message for job_id in jobs) == sorted(map(message, range(3)))
    assert line_of(workers) == jobs


def test_new_jobs_wait_behind_those_that_wait(workers: Team) -> None:
    first = refused(workers)
    later = workers.batch(config=CONFIG)
    with workers.calls(batches_create=0):
        workers.step(later)
    job = workers.job(later)
    assert waits(job)
    assert (job.message, job.state) == (message(1), JobState.QUEUED)
    assert workers.phase(later) is Phase.QUEUED
    assert workers.due_in_s(later) == pytest.approx(PATIENCE_POLLS * SLOW, abs=5)
    workers.step(first)
    assert len(workers.batches_of(first)) == 2
    assert not workers.batches_of(later)


def test_a_job_that_was_made_before_those_that_wait_goes_before_them(workers: Team) -> None:
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
def test_others_are_not_held_up(
    workers: Team, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_OTHER_KEY", "sk-test-another-key")
    refused(workers)
    credential = workers.credential().model_copy(update=other.get("credential"))
    file_id = workers.emulator.upload(str(credential.organization), lines())
    job_id = workers.batch(file_id, config=other["config"], credential=credential)
    workers.step(job_id)
    assert workers.job(job_id).batch_id


# It goes again


def test_the_first_goes_again_when_a_batch_ends(workers: Team) -> None:
    ending = running(workers)
    jobs = all_refused(workers, 3)
    end(workers, ending)
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in jobs] == [2, 1, 1]
    admit(workers, jobs[0])
    assert workers.job(jobs[0]).waiting_since is None
    assert line_of(workers) == jobs[1:]
    # One that was let in says that there may be room for one more.
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in jobs] == [2, 2, 1]


def test_who_is_refused_again_keeps_its_place(workers: Team) -> None:
    ending = running(workers)
    first, second = all_refused(workers, 2)
    since = workers.job(first).waiting_since
    end(workers, ending)
    workers.work()
    refuse(workers, first)
    assert line_of(workers) == [first, second]
    assert workers.job(first).waiting_since == since
    assert workers.job(first).message == message(0)
    assert workers.phase(first) is Phase.INITIALIZING


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_any_end_makes_room(workers: Team, status: str) -> None:
    ending, waiting = running(workers), refused(workers)
    workers.emulator.end(str(workers.job(ending).batch_id), status)
    workers.poll(ending)
    workers.work()
    assert len(workers.batches_of(waiting)) == 2


def test_an_end_seen_on_the_same_page_as_a_refusal_makes_room(workers: Team) -> None:
    ending = running(workers)
    waiting = workers.submitted(config=CONFIG)
    workers.emulator.end(str(workers.job(ending).batch_id))
    batch_id = str(workers.job(waiting).batch_id)
    workers.emulator.end(batch_id, "failed", code="token_limit_exceeded")
    workers.poll(ending, waiting)
    workers.work()
    assert len(workers.batches_of(waiting)) == 2


@quick
def test_it_goes_again_by_itself_after_a_while(workers: Team, emulator: Emulator) -> None:
    emulator.configure(in_progress_s=0)
    emulator.next("failed", code="token_limit_exceeded", count=2)
    job_id = workers.batch(config=CONFIG)
    phases = [Phase.QUEUED]

    def ended() -> bool:
        phases.append(workers.phase(job_id))
        return workers.job(job_id).terminal

    workers.work_until(ended, "the end of the job")
    assert workers.job(job_id).succeeded
    assert len(live(workers.batches_of(job_id))) == 1
    assert len(workers.batches_of(job_id)) == 3
    assert list(dict.fromkeys(phases))[:2] == [Phase.QUEUED, Phase.INITIALIZING]
    job_request = [Phase.QUEUED, Phase.INITIALIZING, Phase.RUNNING, Phase.SUCCEEDED]
    assert phases == sorted(phases, key=job_request.index)


@quick
def test_a_limit_that_lets_one_in_at_a_time_lets_all_through_in_order(
    workers: Team, emulator: Emulator
) -> None:
    emulator.configure(enqueued_token_limit=tokens(workers), in_progress_s=0.1)
    jobs = [workers.batch(config=CONFIG) for _ in range(6)]
    workers.work_until(lambda: all(workers.job(job_id).terminal for job_id in jobs), "all ends")
    assert all(workers.job(job_id).succeeded for job_id in jobs)
    assert len(workers.batches()) > len(jobs)
    admitted = live(workers.batches())
    admitted.sort(key=lambda batch: batch["created_at"])
    waited = [b["metadata"]["batchflow_job"] for b in admitted[1:]]
    assert waited == [job_id for job_id in jobs if job_id in waited]
    assert len(admitted) == len(jobs)
    assert line_of(workers) == []


def tokens(workers: Team) -> int:
    """What one batch takes of the limit."""
    text = json.loads(lines(1))["body"]["messages"][0]["content"]
    return 3 * -(-len(text) // 4) + 1


# Lines are for models


def test_the_model_is_known_from_the_upload(workers: Team, tmp_path: Path) -> None:
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
    assert line_of(workers) == [first, later]


def test_an_end_is_one_of_the_model_that_was_asked_for(workers: Team) -> None:
    """OpenAI shows the exact version of it: the file has one, the config an alias."""
    alias = {"model": "gpt"}
    ending, waiting = running(workers, config=alias), refused(workers, config=alias)
    assert workers.job(ending).model == workers.job(waiting).model == "gpt"
    end(workers, ending)
    workers.work()
    assert len(workers.batches_of(waiting)) == 2


# It is cancelled


def test_a_job_cancelled_while_it_waits_holds_nobody_up(workers: Team) -> None:
    ending = running(workers)
    first, second = all_refused(workers, 2)
    assert workers.ask_to_cancel(first) is CancelResult.CANCELLED
    assert workers.job(first).state is JobState.CANCELLED
    end(workers, ending)
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in (first, second)] == [1, 2]
    assert workers.job(first).message == "Cancelled by Flyte."


def test_who_is_behind_a_cancelled_job_goes_after_a_while_in_any_case(workers: Team) -> None:
    first, second = all_refused(workers, 2)
    workers.ask_to_cancel(first)
    workers.make_due(second)
    workers.work()
    assert [len(workers.batches_of(job_id)) for job_id in (first, second)] == [1, 2]
    assert line_of(workers) == [second]


@pytest.mark.parametrize("seen", ["before", "after"])
def test_a_refusal_ends_a_job_that_is_to_be_cancelled(workers: Team, seen: str) -> None:
    """Whether the job was read before or after the wish came."""
    job_id = workers.submitted(config=CONFIG)
    behind = workers.batch(config=CONFIG)
    wait_in_queue(workers.runtime.store, f"{workers.credential()}|{MODEL}", behind)
    job = workers.job(job_id)
    assert workers.ask_to_cancel(job_id) is CancelResult.REQUESTED
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


def test_a_wish_to_cancel_goes_before_the_line(workers: Team, emulator: Emulator) -> None:
    """A second try whose reply was lost and that never arrived: the job is not to wait in line."""
    first, job_id = all_refused(workers, 2)
    workers.change(job_id, tries=1)
    assert workers.ask_to_cancel(job_id) is CancelResult.REQUESTED
    workers.work()
    assert workers.job(job_id).state is JobState.CANCELLED
    assert len(workers.batches_of(job_id)) == 1
    assert waits(workers.job(first))


# It fails


def test_it_fails_only_after_the_time_that_it_is_to_wait(workers: Team) -> None:
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
    assert line_of(workers) == [behind]
    workers.work()
    assert len(workers.batches_of(behind)) == 2


def test_other_failures_are_failures(workers: Team) -> None:
    job_id = workers.submitted(config=CONFIG)
    workers.emulator.end(str(workers.job(job_id).batch_id), "failed", code="empty_file")
    workers.poll(job_id)
    assert workers.job(job_id).state is JobState.FAILED
    assert line_of(workers) == []


# Things get lost


@pytest.mark.parametrize("admitted", [False, True])
def test_a_late_look_at_the_batch_before_does_no_harm(workers: Team, admitted: bool) -> None:
    job_id = workers.submitted(config=CONFIG)
    before = workers.job(job_id)
    workers.emulator.configure(in_progress_s=600, validating_s=0 if admitted else 600)
    refuse(workers, job_id)
    batch = connect_openai(before.spec.credential, 5).retrieve_batch(str(before.batch_id))
    workers.step(job_id)
    if admitted:
        admit(workers, job_id)
    now, line = workers.job(job_id), line_of(workers)
    assert line == ([] if admitted else [job_id])
    for job in (before, now):
        reconcile(workers.runtime, [Observation(job, batch)], "poll")
    assert workers.job(job_id) == now
    assert line_of(workers) == line
    assert now.batch_id != before.batch_id


@pytest.mark.parametrize("after_acting", [True, False])
def test_a_lost_reply_during_the_second_try(workers: Team, after_acting: bool) -> None:
    job_id = refused(workers)
    workers.emulator.outage(
        answer="drop", after_acting=after_acting, operations=["batches.create"], count=1
    )
    workers.step(job_id)
    assert workers.job(job_id).tries == 1
    workers.pass_time()
    workers.step(job_id)
    [batch] = live(workers.batches_of(job_id))
    assert workers.job(job_id).batch_id == batch["id"]
    assert len(workers.batches_of(job_id)) == 2


def test_redis_is_emptied_while_a_job_waits(workers: Team) -> None:
    job_request = a_job_request(spec=workers.job(workers.batch(config=CONFIG)).spec)
    refused_job = workers.placed(job_request)
    workers.step(refused_job)
    refuse(workers, refused_job)
    workers.empty_redis()
    workers.emulator.configure(validating_s=600)
    workers.runtime.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    assert workers.phase(refused_job) is Phase.RUNNING
    workers.work()
    [batch] = live(workers.batches_of(refused_job))
    assert len(workers.batches_of(refused_job)) == 2
    # It is in the record at once, though OpenAI has only begun to look at it.
    assert workers.job(refused_job).batch_id == batch["id"]
    assert workers.phase(refused_job) is Phase.RUNNING
    refuse(workers, refused_job)
    assert waits(workers.job(refused_job))
    assert workers.phase(refused_job) is Phase.RUNNING
    assert line_of(workers) == [refused_job]


def test_redis_is_emptied_and_the_batch_is_far_down_the_list(
    workers: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    # So that all batches count as made long before the record, which was made again just now.
    monkeypatch.setattr(client, "_CLOCK_SKEW_S", -60)
    job_request = a_job_request(spec=workers.job(running(workers)).spec)
    workers.step(workers.placed(job_request))
    for _ in range(4):
        workers.submitted(config=CONFIG)
    workers.empty_redis()
    workers.runtime.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    workers.work()
    [batch] = workers.batches_of(job_request.job_id)
    assert workers.job(job_request.job_id).batch_id == batch["id"]
