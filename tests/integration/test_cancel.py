"""The cancel step."""

import threading

import pytest

from batchflow.queue import Step
from batchflow.states import JobState
from batchflow.store import records
from tests.kit.processes import until
from tests.kit.workers import MakeWorkers, Workers

CREATE = ["batches.create"]


@pytest.fixture
def workers(make_workers: MakeWorkers) -> Workers:
    """Workers whose organization already has a batch that belongs to no job."""
    workers = make_workers()
    workers.add_foreign_batch()
    return workers


def test_a_job_cancelled_before_its_first_step_makes_no_call(workers: Workers) -> None:
    job_id = workers.batch()
    assert workers.request_cancel(job_id) is records.CancelResult.CANCELLED
    with workers.calls(batches_create=0, batches_list=0, batches_cancel=0):
        workers.step(job_id)
        workers.cancel(job_id)
    assert workers.job(job_id).message == "Cancelled by Flyte."


def test_a_batch_is_cancelled_at_openai(workers: Workers) -> None:
    job_id = workers.submitted()
    assert workers.request_cancel(job_id) is records.CancelResult.REQUESTED
    workers.cancel(job_id)
    job = workers.poll_until_terminal(job_id)
    assert (job.state, job.openai_status) == (JobState.CANCELLED, "cancelled")
    assert job.message.startswith("Cancelled by Flyte. ")
    assert "of 3 requests were completed" in job.message


@pytest.mark.parametrize("created", [True, False], ids=["created", "not created"])
def test_cancel_after_a_lost_reply(workers: Workers, created: bool) -> None:
    job_id = workers.batch()
    workers.emulator.outage(answer="drop", after_acting=created, operations=CREATE, count=1)
    workers.step(job_id)
    assert workers.request_cancel(job_id) is records.CancelResult.REQUESTED
    workers.end_backoff()
    with workers.calls(batches_create=0):
        workers.cancel(job_id)
        if created:
            assert (Step.CANCEL, job_id) in workers.sweep()
            workers.cancel(job_id)
            workers.poll_until_terminal(job_id)
    assert workers.job(job_id).state is JobState.CANCELLED
    assert workers.job(job_id).message.startswith("Cancelled by Flyte.")
    assert [batch["status"] for batch in workers.batches()] == (["cancelled"] if created else [])


def test_a_cancellation_requested_during_the_create_call_is_kept(workers: Workers) -> None:
    job_id = workers.batch()
    workers.emulator.outage(answer="normal", operations=CREATE, delay_s=0.5, count=1)
    worker = threading.Thread(target=workers.step, args=(job_id,))
    worker.start()
    until(workers.batches, "the batch", every_s=0.01)
    assert workers.request_cancel(job_id) is records.CancelResult.REQUESTED
    worker.join()
    assert (Step.CANCEL, job_id) in workers.sweep()
    workers.cancel(job_id)
    assert workers.poll_until_terminal(job_id).state is JobState.CANCELLED


def test_cancelling_a_batch_that_has_ended_records_its_end(workers: Workers) -> None:
    job_id = workers.submitted()
    workers.emulator.end(str(workers.job(job_id).batch_id))
    workers.request_cancel(job_id)
    workers.cancel(job_id)
    assert workers.job(job_id).state is JobState.SUCCEEDED


def test_an_outage_delays_a_cancel(workers: Workers) -> None:
    job_id = workers.submitted()
    workers.request_cancel(job_id)
    workers.emulator.outage(status=503, operations=["batches.*"])
    workers.cancel(job_id)
    assert workers.job(job_id).state is JobState.RUNNING
    workers.emulator.end_outages()
    workers.end_backoff()
    workers.cancel(job_id)
    assert workers.poll_until_terminal(job_id).state is JobState.CANCELLED
