"""The runner of all steps: leases, records and failures."""

import time

import pytest
from batchflow_workers import lease
from batchflow_workers.lease import Lease
from batchflow_workers.policy import Policy
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps.runner import run_step

from batchflow.errors import BlobUnavailable, CredentialRefused, InvalidInput
from batchflow.jobs import Job
from batchflow.states import JobState
from batchflow.store import leases, records
from tests.kit.job_requests import a_job_request
from tests.kit.workers import MakeWorkers, Workers

MAX_FAILURES = Policy().max_failures
MAX_STARTS = Policy().max_starts


def test_a_step_leaves_a_leased_job_alone(workers: Workers) -> None:
    job_id = workers.batch()
    workers.store.run(leases.acquire(job_id, "another worker", ttl_s=60))
    workers.step(job_id)
    assert not workers.batches()
    workers.store.run(leases.release(job_id, "another worker"))
    workers.step(job_id)
    assert len(workers.batches()) == 1


@pytest.mark.parametrize("hangs", [True, False])
def test_a_step_that_hangs_loses_its_lease(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    if hangs:
        monkeypatch.setattr(lease, "STEP_LIMIT_S", 0)
    workers = make_workers(lease_s=0.5)
    taken = leases.acquire(job_id := workers.batch(), "another worker", ttl_s=60)

    def work(runtime: Runtime, _: Job, __: Lease) -> None:
        deadline = time.monotonic() + (10 if hangs else 1.5)
        while not (got := runtime.store.run(taken)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert got is hangs

    run_step(workers.runtime, "test", job_id, work)
    assert workers.job(job_id).message == ""


def test_a_step_without_a_job_does_nothing(workers: Workers) -> None:
    def work(_: Runtime, __: Job, ___: Lease) -> None:
        pytest.fail("the step ran")

    run_step(workers.runtime, "test", a_job_request().job_id, work)


def test_a_step_that_keeps_failing_is_given_up(workers: Workers) -> None:
    job_id = workers.batch()

    def broken(_: Runtime, __: Job, ___: Lease) -> None:
        raise ZeroDivisionError

    delays_s = []
    for failure in range(1, MAX_FAILURES):
        run_step(workers.runtime, "test", job_id, broken)
        message = f"Batchflow's test step failed with ZeroDivisionError (try {failure} of 8)"
        assert (workers.job(job_id).state, workers.job(job_id).message) == (
            JobState.QUEUED,
            message,
        )
        delays_s.append(round(workers.due_in_s(job_id)))
    assert delays_s == [2, 4, 8, 16, 32, 64, 128]
    run_step(workers.runtime, "test", job_id, broken)
    assert workers.job(job_id).state is JobState.RETRYABLE


def test_a_success_resets_the_failures(workers: Workers) -> None:
    job_id = workers.batch()
    workers.change(job_id, failures=MAX_FAILURES - 1)
    workers.step(job_id)
    assert workers.job(job_id).failures == 0


def starts(workers: Workers, job_id: str) -> str | None:
    [value] = workers.store.run(records.get_fields(job_id, ["starts"]))
    return value


@pytest.mark.parametrize(
    "failure",
    [None, InvalidInput(""), BlobUnavailable(""), CredentialRefused(), ZeroDivisionError()],
)
def test_a_step_that_returns_is_not_counted(workers: Workers, failure: Exception | None) -> None:
    job_id = workers.upload("/in.jsonl")
    workers.change(job_id, starts=MAX_STARTS - 1)

    def work(_: Runtime, __: Job, ___: Lease) -> None:
        assert starts(workers, job_id) == str(MAX_STARTS)
        if failure:
            raise failure

    run_step(workers.runtime, "test", job_id, work)
    assert starts(workers, job_id) is None


def test_a_step_that_is_postponed_is_not_counted(workers: Workers) -> None:
    job_id = workers.batch()

    def refused(_: Runtime, __: Job, ___: Lease) -> None:
        raise CredentialRefused

    for _ in range(MAX_STARTS + 2):
        run_step(workers.runtime, "test", job_id, refused)
    assert (workers.job(job_id).state, starts(workers, job_id)) == (JobState.QUEUED, None)


@pytest.mark.parametrize("kind", ["batch", "upload", "download"])
def test_a_step_that_never_returns_is_given_up(workers: Workers, kind: str) -> None:
    job_id = workers.batch() if kind == "batch" else getattr(workers, kind)("/in.jsonl")
    workers.change(job_id, starts=MAX_STARTS)

    def work(_: Runtime, __: Job, ___: Lease) -> None:
        pytest.fail("the step ran")

    run_step(workers.runtime, "test", job_id, work)
    job = workers.job(job_id)
    assert job.state is JobState.RETRYABLE
    assert "test step was started 8 times and never returned" in job.message
    assert starts(workers, job_id) is None


def test_a_job_whose_batch_runs_is_not_given_up(workers: Workers) -> None:
    job_id = workers.submitted()
    workers.change(job_id, starts=MAX_STARTS - 1)

    def work(_: Runtime, __: Job, ___: Lease) -> None:
        assert starts(workers, job_id) == str(MAX_STARTS - 1)

    run_step(workers.runtime, "test", job_id, work)
    assert not workers.job(job_id).terminal
