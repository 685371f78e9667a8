"""Polls of batches at the emulator; see test_scan for the calls that they make."""

from collections.abc import Sequence
from typing import Any

import pytest

from batchflow.states import JobState
from batchflow.store import keys, leases, records
from batchflow.store.command import Command
from tests.kit.workers import MakeWorkers, Workers

CREATE = ["batches.create"]
WAITING = "Waiting to call OpenAI again. "


@pytest.fixture
def workers(make_workers: MakeWorkers) -> Workers:
    """Workers whose organization already has a batch that belongs to no job."""
    workers = make_workers()
    workers.add_foreign_batch()
    return workers


def test_many_batches_are_polled_with_one_page(workers: Workers) -> None:
    ids = [workers.submitted() for _ in range(6)]
    for job_id in ids[:3]:
        workers.emulator.end(str(workers.job(job_id).batch_id))
    with workers.calls(batches_list=1, batches_retrieve=0):
        workers.poll(*ids)
    states = [workers.job(job_id).state for job_id in ids]
    assert states == [JobState.SUCCEEDED] * 3 + [JobState.RUNNING] * 3


def test_a_single_batch_is_polled_by_its_id(workers: Workers) -> None:
    job_id, other = workers.submitted(), workers.submitted()
    with workers.calls(batches_list=0, batches_retrieve=1):
        workers.poll(job_id)
    assert workers.job(job_id).checked_at > workers.job(other).checked_at  # type: ignore[operator]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_cannot_list_batches_is_polled(workers: Workers, status: int) -> None:
    workers.emulator.outage(answer="status", status=status, operations=["batches.list"])
    lost = workers.batch()
    workers.emulator.outage(answer="status", status=500, operations=CREATE, count=1)
    workers.step(lost)
    workers.emulator.end_outages()
    workers.emulator.outage(answer="status", status=status, operations=["batches.list"])
    workers.end_backoff()
    workers.step(lost)
    ids = [lost, workers.submitted(), workers.submitted()]
    for job_id in ids:
        workers.emulator.end(str(workers.job(job_id).batch_id))
    with workers.calls(batches_list=1, batches_retrieve=3):
        workers.poll(*ids)
    assert [workers.job(job_id).state for job_id in ids] == [JobState.SUCCEEDED] * 3


def test_one_search_finds_the_batches_of_all_jobs_that_search(workers: Workers) -> None:
    lost = [workers.batch() for _ in range(3)]
    workers.emulator.outage(answer="drop", after_acting=True, operations=CREATE, count=3)
    for job_id in lost:
        workers.step(job_id)
        workers.end_backoff()
    with workers.calls(batches_list=1, batches_create=0):
        workers.step(lost[0])
    assert {workers.job(job_id).batch_id for job_id in lost} == {b["id"] for b in workers.batches()}
    assert len(workers.batches()) == 3


def test_a_poll_reads_the_records_on_its_page_once(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [workers.submitted() for _ in range(5)]
    reads: list[str] = []
    run_all = workers.store.run_all

    def counting(commands: Sequence[Command[Any]]) -> list[Any]:
        reads.extend(command.keys[0] for command in commands if command.name == "HGETALL")
        return run_all(commands)

    monkeypatch.setattr(workers.store, "run_all", counting)
    workers.poll(*ids[:2])
    assert sorted(reads) == sorted(keys.job(job_id) for job_id in [*ids[:2], *ids])


def test_a_page_shows_batches_that_are_not_due(workers: Workers) -> None:
    one, two, other = (workers.submitted() for _ in range(3))
    workers.emulator.end(str(workers.job(other).batch_id))
    workers.poll(one, two)
    assert workers.job(other).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("job_age_s", "batch_age_s", "state"),
    [
        pytest.param(60, 60, JobState.RUNNING, id="young"),
        pytest.param(3_600, 60, JobState.RUNNING, id="young, of an old job"),
        pytest.param(3_600, 3_600, JobState.FAILED, id="old"),
    ],
)
def test_a_batch_that_openai_does_not_know(
    workers: Workers, job_age_s: int, batch_age_s: int, state: JobState
) -> None:
    unknown, known = workers.submitted(), workers.submitted()
    now_s = workers.store.run(records.time())
    workers.change(
        unknown,
        batch_id="batch_unknown",
        created_at=f"{now_s - job_age_s:.6f}",
        tried_at=f"{now_s - batch_age_s:.6f}",
    )
    workers.emulator.end(str(workers.job(known).batch_id))
    workers.poll(unknown, known)
    assert workers.job(unknown).state is state
    if state is JobState.FAILED:
        assert "OpenAI no longer has the batch batch_unknown." in workers.job(unknown).message
    assert workers.job(known).state is JobState.SUCCEEDED


def test_an_unknown_status_is_harmless(workers: Workers) -> None:
    workers.emulator.configure(extra_status="paused", extra_status_s=600)
    job_id = workers.submitted()
    job = workers.poll_until(job_id, lambda job: job.openai_status == "paused")
    assert job.state is JobState.RUNNING
    workers.emulator.end(str(job.batch_id))
    workers.poll(job_id)
    assert workers.job(job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("answer", ["status", "drop", "garbage", "cut"])
def test_an_outage_changes_only_the_message(workers: Workers, answer: str, count: int) -> None:
    ids = [workers.submitted() for _ in range(count)]
    before = [workers.job(job_id) for job_id in ids]
    workers.emulator.outage(answer=answer, operations=["batches.list", "batches.retrieve"])
    workers.poll(*ids)
    for job, after in zip(before, map(workers.job, ids), strict=True):
        assert after.message.startswith(WAITING)
        same = {"message", "checked_at", "updated_at", "source", "history"}
        assert after.model_dump(exclude=same) == job.model_dump(exclude=same)
        assert after.checked_at > job.checked_at  # type: ignore[operator]
    workers.emulator.end_outages()
    workers.end_backoff()
    workers.poll(*ids)
    assert all(workers.job(job_id).message == "" for job_id in ids)


def test_one_poll_of_a_credential_runs_at_a_time(workers: Workers) -> None:
    job_id = workers.submitted()
    lease = f"poll:{workers.credential()}"
    workers.store.run(leases.acquire(lease, "another worker", ttl_s=60))
    with workers.calls(batches_list=0, batches_retrieve=0):
        workers.poll(job_id)
    assert workers.due_in_s(job_id) <= 1.1
