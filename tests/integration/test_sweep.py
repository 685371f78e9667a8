"""The sweep: due jobs and the steps that it enqueues."""

from dataclasses import replace
from typing import Any

import pytest
from batchflow_workers.policy import Policy

from batchflow.queue import QueueUnavailable, Step
from batchflow.states import JobState
from batchflow.store import heartbeats, index, keys, leases, metrics, records
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


# Due times


def lose_due_time(workers: Workers, job_id: str) -> None:
    workers.store.redis.zrem(workers.redis_key(keys.DUE), job_id)


def check_again(workers: Workers) -> None:
    """Let the last check of due times be more than an hour ago."""
    hour_ago_s = workers.store.run(records.time()) - 3_601
    workers.store.run(heartbeats.record_event(due_check=hour_ago_s))


def test_a_live_job_that_lost_its_due_time_is_found_within_an_hour(workers: Workers) -> None:
    workers.sweep()
    submitted, queued = workers.submitted(), workers.upload("/in.jsonl")
    for job_id in (submitted, queued):
        lose_due_time(workers, job_id)
    assert workers.sweep() == [], "the last check was just now"
    check_again(workers)
    assert workers.sweep() == []
    assert sorted(workers.sweep()) == [(Step.POLL, [submitted]), (Step.UPLOAD, queued)]
    assert workers.store.run(metrics.counters())["due_times_restored",] == 2


def test_the_check_of_due_times_leaves_other_jobs_alone(workers: Workers) -> None:
    waiting, ended, gone = workers.submitted(), workers.batch(), workers.batch()
    workers.runtime.end(ended, "test", JobState.FAILED, "")
    workers.store.redis.delete(workers.redis_key(keys.job(gone)))
    lose_due_time(workers, gone)
    workers.runtime.update(waiting, "test", due_in_s=600)
    redis: Any = workers.store.redis
    before = redis.zscore(workers.redis_key(keys.DUE), waiting)
    workers.sweep()
    assert redis.zrange(workers.redis_key(keys.DUE), 0, -1, withscores=True) == [(waiting, before)]


def test_the_check_of_due_times_reads_all_jobs_in_parts(workers: Workers) -> None:
    workers.runtime = replace(workers.runtime, policy=Policy(checked_jobs=3))
    ids = [workers.upload("/in.jsonl") for _ in range(10)]
    for job_id in ids:
        lose_due_time(workers, job_id)
    assert workers.sweep() == []
    assert sorted(workers.sweep()) == sorted((Step.UPLOAD, job_id) for job_id in ids)
