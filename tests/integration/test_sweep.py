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


# Records that this version can't read


def unreadable(workers: Workers, **fields: str) -> str:
    """A job whose record another version has changed."""
    job_id = workers.batch()
    workers.change(job_id, **fields or {"spec": "of-the-future"})
    return job_id


def isolated(workers: Workers) -> list[str]:
    job_ids = workers.store.run(records.isolated(10))
    return sorted(job_ids)


def raw(workers: Workers, job_id: str) -> dict[str, str]:
    redis: Any = workers.store.redis
    found: dict[str, str] = redis.hgetall(workers.redis_key(keys.job(job_id)))
    return found


def due_now(workers: Workers, job_id: str) -> None:
    workers.store.redis.zadd(workers.redis_key(keys.DUE), {job_id: 0})


@pytest.mark.parametrize("field", ["state", "kind", "spec", "stage"])
def test_an_unreadable_record_is_put_aside(
    workers: Workers, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    job_id, other = unreadable(workers, **{field: "?"}), workers.batch()
    before = raw(workers, job_id)
    assert workers.sweep() == [(Step.SUBMIT, other)]
    assert isolated(workers) == [job_id]
    assert workers.due_in_s(job_id) == pytest.approx(3_600, abs=60)
    due_now(workers, job_id)
    assert workers.sweep() == []
    assert raw(workers, job_id) == before
    [logged] = [r.getMessage() for r in caplog.records if job_id in r.getMessage()]
    assert logged.startswith(f"{job_id}: this version can't read the record; check: ")
    assert field in logged


@pytest.mark.parametrize("field", ["state", "kind", "spec", "stage"])
@pytest.mark.parametrize("expires", [True, False])
def test_an_unreadable_record_fails_when_its_time_is_over(
    workers: Workers, field: str, expires: bool
) -> None:
    job_id, now_s = unreadable(workers, **{field: "?"}), workers.store.run(records.time())
    over, age_s = ("expires_at", 0) if expires else ("created_at", 3 * 86_400)
    workers.change(job_id, **{over: now_s + 60 - age_s})
    workers.sweep()
    assert isolated(workers) == [job_id]
    workers.change(job_id, **{over: now_s - 60 - age_s})
    due_now(workers, job_id)
    assert workers.sweep() == []
    found = raw(workers, job_id)
    assert found["state"] == JobState.FAILED
    assert "another version has written it, or it is damaged" in found["message"]
    assert field in found["message"]
    assert isolated(workers) == []
    assert workers.store.redis.zscore(workers.redis_key(keys.DUE), job_id) is None


def test_a_job_continues_when_its_record_can_be_read_again(workers: Workers) -> None:
    job_id = workers.batch()
    spec = raw(workers, job_id)["spec"]
    workers.change(job_id, spec="?")
    workers.sweep()
    workers.change(job_id, spec=spec)
    assert workers.sweep() == []
    assert isolated(workers) == []
    assert workers.sweep() == [(Step.SUBMIT, job_id)]


def test_a_job_that_ended_or_is_gone_is_no_longer_put_aside(workers: Workers) -> None:
    ended, gone = unreadable(workers), unreadable(workers)
    workers.sweep()
    assert isolated(workers) == sorted([ended, gone])
    workers.request_cancel(ended)
    workers.store.redis.delete(workers.redis_key(keys.job(gone)))
    workers.sweep()
    assert isolated(workers) == []


def test_no_odd_record_stops_the_sweep_of_others(workers: Workers) -> None:
    redis: Any = workers.store.redis
    no_hash, empty, no_kind = workers.batch(), workers.batch(), workers.batch()
    redis.set(workers.redis_key(keys.job(no_hash)), "text")
    redis.delete(workers.redis_key(keys.job(empty)))
    workers.change(empty, top_error="of nothing")
    redis.hdel(workers.redis_key(keys.job(no_kind)), "kind")
    workers.change(no_kind, expires_at=1)
    job_id = workers.batch()
    assert workers.sweep() == [(Step.SUBMIT, job_id)]
    assert redis.zrange(workers.redis_key(keys.DUE), 0, -1) == [job_id]
    assert raw(workers, no_kind)["state"] == JobState.FAILED
    assert isolated(workers) == []
    assert "sweep" in workers.store.run(heartbeats.last_seen())
