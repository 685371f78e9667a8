"""The sweep: due jobs and the steps that it enqueues."""

from typing import Any

import pytest

from batchflow.queue import QueueUnavailable, Step
from batchflow.states import JobState
from batchflow.store import index, keys, leases, records
from tests.kit.processes import until
from tests.kit.workers import MakeWorkers, Workers


def test_the_sweep_enqueues_the_step_that_each_due_job_needs(workers: Workers) -> None:
    submitted = workers.submitted()
    workers.runtime.update(submitted, "test", due_in_s=0)
    cancelled = workers.submitted()
    workers.request_cancel(cancelled)
    lost = workers.batch()
    up, down = workers.upload("/in.jsonl"), workers.download("/out")
    assert sorted(workers.sweep()) == sorted(
        [
            (Step.POLL, [submitted]),
            (Step.CANCEL, cancelled),
            (Step.SUBMIT, lost),
            (Step.UPLOAD, up),
            (Step.DOWNLOAD, down),
        ]
    )
    assert workers.sweep() == []


def test_a_lost_message_is_sent_again(make_workers: MakeWorkers) -> None:
    workers = make_workers(lease_s=0.5)
    job_id = workers.batch()
    assert workers.sweep() == [(Step.SUBMIT, job_id)]
    assert workers.due_in_s(job_id) <= 0.5
    assert until(workers.sweep, "the job to be due", every_s=0.02) == [(Step.SUBMIT, job_id)]


def test_steps_of_old_jobs_are_enqueued_less_often(workers: Workers) -> None:
    job_id = workers.batch()
    now_s = workers.store.run(records.time())
    for age_s, wait_s in ((1, 5), (200, 100), (86_400, 600)):
        workers.change(job_id, created_at=f"{now_s - age_s:.6f}")
        workers.runtime.update(job_id, "test", due_in_s=0)
        assert workers.sweep() == [(Step.SUBMIT, job_id)]
        assert workers.due_in_s(job_id) == pytest.approx(wait_s, abs=2)


def test_due_batches_are_polled_together_by_credential(workers: Workers) -> None:
    credentials = [workers.credential(), workers.credential(group="other", key="key")]
    groups = [
        [workers.submitted(credential=credential) for _ in range(3)] for credential in credentials
    ]
    for job_id in (job_id for group in groups for job_id in group):
        workers.runtime.update(job_id, "test", due_in_s=0)
    sent = workers.sweep()
    assert [step for step, _ in sent] == [Step.POLL, Step.POLL]
    assert sorted(sorted(ids) for _, ids in sent) == sorted(map(sorted, groups))


def test_one_sweep_runs_at_a_time(workers: Workers) -> None:
    workers.batch()
    workers.store.run(leases.acquire("sweep", "another worker", ttl_s=60))
    assert workers.sweep() == []


def test_a_job_whose_record_is_gone_is_no_longer_due(workers: Workers) -> None:
    job_id = workers.batch()
    workers.store.redis.delete(workers.redis_key(keys.job(job_id)))
    assert workers.sweep() == []
    assert workers.store.run(index.recent(10)) == []


def test_an_unreadable_record_does_not_stop_other_jobs(workers: Workers) -> None:
    unreadable, job_id = workers.batch(), workers.batch()
    workers.change(unreadable, state="of-the-future")
    assert workers.sweep() == [(Step.SUBMIT, job_id)]
    raw: Any = workers.store.redis
    assert raw.hget(workers.redis_key(keys.job(unreadable)), "state")


def test_no_job_is_lost_while_the_broker_is_unavailable(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = make_workers(lease_s=0.5)
    job_id = workers.batch()

    def fail(*_: object, **__: object) -> None:
        raise QueueUnavailable("unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(workers.sender, "send", fail)
        assert workers.sweep() == []
    assert until(workers.sweep, "the job to be due", every_s=0.02) == [(Step.SUBMIT, job_id)]


def test_a_deleted_job_is_cancelled_after_its_delay(workers: Workers) -> None:
    waits, runs = workers.batch(), workers.submitted()
    for job_id in (waits, runs):
        workers.store.run(records.delete_task(job_id, attempt=0, delay_s=60))
        workers.make_due(job_id)
    assert (Step.CANCEL, runs) not in workers.sweep()
    assert not workers.job(waits).terminal
    for job_id in (waits, runs):
        workers.change(job_id, delete_at=workers.store.run(records.time()))
        workers.make_due(job_id)
    assert workers.sweep() == [(Step.CANCEL, runs)]
    assert workers.job(waits).state is JobState.CANCELLED
    workers.cancel(runs)
    assert workers.poll_until_terminal(runs).message.startswith("Cancelled by Flyte.")
