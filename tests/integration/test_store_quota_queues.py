"""The quota queues, for all stores, over fakeredis and Redis."""

from typing import Any

from batchflow.jobs import JobRequest
from batchflow.states import JobState, WaitingFor
from batchflow.store import keys, quota_queues, records
from batchflow.store.records import UpdateOutcome
from tests.kit.stores import LATER_S, StoreHarness

QUEUE = "key|m"


def requeue(
    store: StoreHarness, job_request: JobRequest, queue: str = QUEUE, **change: Any
) -> UpdateOutcome:
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
    return store.run(command).outcome


def join(store: StoreHarness, job_id: str) -> UpdateOutcome:
    command = quota_queues.join(QUEUE, job_id, source="test", message="Waiting", retry_in_s=LATER_S)
    return store.run(command).outcome


def leave(store: StoreHarness, job_request: JobRequest, *, batch_ended: bool = False) -> str | None:
    """Returns the job that was made due."""
    first = ""
    while True:
        reply = store.run(quota_queues.advance(QUEUE, job_request.job_id, batch_ended, first=first))
        if reply.done or not reply.first:
            return reply.first
        first = reply.first


def queued(store: StoreHarness, queue: str = QUEUE) -> list[str]:
    return list(store.raw(keys.waiting(queue)) or {})


def test_jobs_wait_in_the_order_in_which_they_were_created(store: StoreHarness) -> None:
    jobs = [store.created() for _ in range(3)]
    for job_request in (jobs[1], jobs[0], jobs[2], jobs[1]):
        assert requeue(store, job_request) is UpdateOutcome.APPLIED
    assert queued(store) == [job_request.job_id for job_request in jobs]
    messages = [store.job(job_request).message for job_request in jobs]
    assert messages == [
        "Waiting; it is next",
        "Waiting; 1 job is ahead of it",
        "Waiting; 2 jobs are ahead of it",
    ]
    assert store.job(jobs[0]).model == "m"


def test_a_refused_batch_is_forgotten_and_the_job_waits_since_its_first_refusal(
    store: StoreHarness,
) -> None:
    job_request = store.created()
    store.run(records.begin(job_request.job_id))
    store.changed(job_request, to=JobState.RUNNING, fields={"batch_id": "batch_1"})
    assert requeue(store, job_request, of_batch="batch_2") is UpdateOutcome.STALE
    assert queued(store) == []
    assert requeue(store, job_request, of_batch="batch_1") is UpdateOutcome.APPLIED
    job = store.job(job_request)
    assert (job.batch_id, job.tries, job.openai_status) == (None, 0, "failed")
    assert job.state is JobState.RUNNING
    assert store.due()[job_request.job_id] > store.run(records.time()) + LATER_S / 2
    assert requeue(store, job_request) is UpdateOutcome.APPLIED
    assert store.job(job_request).waiting_since == job.waiting_since
    assert store.job(job_request).waiting_for is WaitingFor.QUOTA
    store.changed(job_request, fields={"message": "validating"})
    assert store.job(job_request).waiting_for is None


def test_a_job_that_waited_too_long_fails(store: StoreHarness) -> None:
    job_request = store.created()
    requeue(store, job_request)
    store.changed(job_request, fields={"waiting_since": store.run(records.time()) - 2 * LATER_S})
    requeue(store, job_request)
    job = store.job(job_request)
    assert (job.state, job.message) == (JobState.FAILED, "Waited too long.")
    assert job.waiting_for is None
    assert job_request.job_id not in store.due()
    assert requeue(store, job_request) is UpdateOutcome.REFUSED


def test_a_refusal_ends_a_job_whose_cancellation_was_requested(store: StoreHarness) -> None:
    job_request = store.created()
    store.run(records.begin(job_request.job_id))
    store.run(records.cancel(job_request.job_id, message="Cancelled by Flyte.", source="test"))
    assert requeue(store, job_request) is UpdateOutcome.APPLIED
    job = store.job(job_request)
    assert (job.state, job.message) == (JobState.CANCELLED, "Cancelled by Flyte.")
    assert queued(store) == []


def test_a_job_without_a_batch_waits_only_behind_others(store: StoreHarness) -> None:
    first, second = store.created(), store.created()
    assert join(store, first.job_id) is UpdateOutcome.FIRST
    assert (store.job(first).waiting_since, store.job(first).waiting_for) == (None, None)
    assert join(store, second.job_id) is UpdateOutcome.APPLIED
    assert store.job(second).message == "Waiting; 1 job is ahead of it"
    assert store.job(second).waiting_for is WaitingFor.QUOTA
    store.changed(second, fields={"batch_id": "batch_1"})
    assert join(store, second.job_id) is UpdateOutcome.STALE
    assert join(store, "bf-none") is UpdateOutcome.MISSING


def test_the_first_that_still_waits_is_made_due(store: StoreHarness) -> None:
    leaving, ended, admitted, waiting = [store.created() for _ in range(4)]
    for job_request in (leaving, ended, admitted, waiting):
        requeue(store, job_request)
    store.changed(ended, to=JobState.FAILED)
    store.changed(admitted, fields={"batch_id": "batch_1", "openai_status": "in_progress"})
    assert leave(store, leaving) == waiting.job_id
    assert queued(store) == [waiting.job_id]
    assert store.due()[waiting.job_id] <= store.run(records.time())


def test_a_job_that_did_not_wait_moves_others_only_if_its_batch_ended(store: StoreHarness) -> None:
    waiting, other = store.created(), store.created()
    requeue(store, waiting)
    assert leave(store, other) is None
    assert store.due()[waiting.job_id] > store.run(records.time())
    assert leave(store, other, batch_ended=True) == waiting.job_id
    assert store.due()[waiting.job_id] <= store.run(records.time())


def test_queues_are_known_while_jobs_wait_in_them(store: StoreHarness) -> None:
    first, second = store.created(), store.created()
    requeue(store, first)
    requeue(store, second)
    requeue(store, second, "key|n")
    assert store.run(quota_queues.names()) == [QUEUE, "key|n"]
    assert store.run(quota_queues.length(QUEUE)) == 2
    leave(store, second)
    leave(store, first)
    assert store.run(quota_queues.names()) == ["key|n"]
