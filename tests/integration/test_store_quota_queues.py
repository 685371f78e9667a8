"""The quota queues, for all stores, over fakeredis and Redis."""

from typing import Any

from batchflow.jobs import JobRequest
from batchflow.states import JobState
from batchflow.store import keys, quota_queues, records
from batchflow.store.records import UpdateOutcome
from tests.kit.rigs import LATER_S, Rig

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
