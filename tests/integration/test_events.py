"""Webhooks as workers meet them, a look at errors, and the numbers that come of it all."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batchflow_workers.steps import explain, refresh
from batchflow_workers.steps.runner import run_step

from batchflow.overview.summary import Summary, summarize
from batchflow.settings import Settings
from batchflow.states import JobKind, JobState
from batchflow.store import backoff, connect_async, heartbeats, metrics, quota_queues, records
from tests.kit.emulator import Emulator
from tests.kit.runtime import Team, team
from tests.kit.steps import lines, wait_in_queue

POLL_S = 10


@pytest.fixture
def workers(
    emulator: Emulator,
    settings: Callable[..., Settings],
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Team]:
    with team(emulator, settings, key_prefix, monkeypatch, poll_interval_s=POLL_S) as workers:
        yield workers
        emulator.heal()


def end(workers: Team, job_id: str, status: str = "completed", **job_request: object) -> None:
    workers.emulator.end(str(workers.job(job_id).batch_id), status, **job_request)


def tell(workers: Team, job_id: str) -> None:
    """What a worker does when a webhook has come."""
    run_step(workers.runtime, refresh.SOURCE, job_id, refresh.refresh)


def summary(workers: Team) -> Summary:
    async def look() -> Summary:
        store = connect_async(workers.runtime.settings)
        async with store.redis:
            return await summarize(store)

    return asyncio.run(look())


# Webhooks


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("completed", JobState.SUCCEEDED),
        ("failed", JobState.FAILED),
        ("expired", JobState.FAILED),
        ("cancelled", JobState.FAILED),
    ],
)
def test_a_webhook_brings_the_end_at_once(workers: Team, status: str, state: JobState) -> None:
    job_id = workers.submitted()
    end(workers, job_id, status)
    with workers.calls(batches_retrieve=1, batches_list=0):
        tell(workers, job_id)
    job = workers.job(job_id)
    assert (job.state, job.openai_status, job.source) == (state, status, "webhook")


def test_the_event_itself_is_not_believed(workers: Team) -> None:
    job_id = workers.submitted()
    tell(workers, job_id)
    assert workers.job(job_id).state is JobState.RUNNING


def test_repeated_and_late_webhooks_are_harmless(workers: Team) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    tell(workers, job_id)
    ended = workers.job(job_id)
    with workers.calls(batches_retrieve=0):
        tell(workers, job_id)
    assert workers.job(job_id) == ended


def test_a_webhook_during_an_outage_leaves_the_job_to_the_poll(workers: Team) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    workers.emulator.outage(answer="status", operations=["batches.retrieve"])
    tell(workers, job_id)
    assert workers.job(job_id).state is JobState.RUNNING
    assert workers.due_in_s(job_id) < POLL_S
    workers.emulator.end_outages()
    workers.pass_time()
    workers.make_due(job_id)
    workers.work()
    assert workers.job(job_id).state is JobState.SUCCEEDED


def test_where_webhooks_come_the_poll_asks_less_often(workers: Team) -> None:
    told, ended = workers.submitted(), workers.submitted()
    workers.poll(told)
    assert workers.due_in_s(told) <= POLL_S
    end(workers, ended)
    tell(workers, ended)
    workers.poll(told)
    assert POLL_S < workers.due_in_s(told) <= 4 * POLL_S
    end(workers, told)
    workers.make_due(told)
    workers.work()
    assert workers.job(told).state is JobState.SUCCEEDED


# The most frequent error


def test_the_most_frequent_error_is_found_when_somebody_looks(workers: Team) -> None:
    workers.emulator.configure(request_failure_share=1.0)
    job_id = workers.submitted(file_id=workers.emulator.upload(workers.organization, lines(7)))
    end(workers, job_id)
    workers.poll(job_id)
    job = workers.job(job_id)
    assert (job.failed, job.top_error) == (7, "")
    explain.explain(workers.runtime, job_id)
    explained = workers.job(job_id)
    assert explained.top_error.partition(" x ")[0] == "7"
    assert explained.top_error.partition(" x ")[2]
    assert explained.updated_at == job.updated_at
    with workers.calls(files_content=0):
        explain.explain(workers.runtime, job_id)


def test_an_error_file_that_is_gone_is_said_to_be(workers: Team) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    workers.poll(job_id)
    workers.change(job_id, error_file_id="file-gone")
    explain.explain(workers.runtime, job_id)
    assert "file-gone" in workers.job(job_id).top_error


def test_no_look_at_errors_while_openai_is_to_be_left_alone(workers: Team) -> None:
    job_id = workers.submitted()
    workers.change(job_id, error_file_id="file-1")
    store, credential = workers.runtime.store, str(workers.job(job_id).spec.credential)
    store.run(backoff.extend(credential, message="Slow down.", retry_after_s=60))
    with workers.calls(files_content=0):
        explain.explain(workers.runtime, job_id)
    assert workers.job(job_id).top_error == ""


# Numbers


def test_the_summary_says_what_there_is(workers: Team, tmp_path: Path) -> None:
    first, second, third = (workers.submitted() for _ in range(3))
    waiting = workers.batch()
    end(workers, second)
    end(workers, third, "failed")
    workers.poll(first, second, third)
    upload = workers.upload(str(tmp_path / "missing.jsonl"))
    workers.step(upload)
    told = summary(workers)
    assert (told.running, told.queued) == (1, 1)
    assert told.counts[JobKind.BATCH][JobState.SUCCEEDED] == 1
    assert told.counts[JobKind.UPLOAD] == dict.fromkeys(JobState, 0) | {JobState.FAILED: 1}
    assert (told.succeeded_last_hour, told.failed_last_hour) == (1, 2)
    usage = (workers.job(second).result or {})["usage"]
    assert (told.input_tokens, told.output_tokens) == (
        usage["input_tokens"],
        usage["output_tokens"],
    )
    assert told.oldest_batch == first
    assert told.oldest_batch_since == workers.job(first).created_at
    assert told.polled_at is not None
    assert abs((told.at - told.polled_at).total_seconds()) < 60
    assert told.webhook_at is None
    assert told.since is not None
    assert workers.job(waiting).state is JobState.QUEUED


def test_the_summary_says_what_jobs_wait_for(workers: Team) -> None:
    job = workers.job(workers.submitted())
    store, credential = workers.runtime.store, str(job.spec.credential)
    store.run(backoff.extend(credential, message="OpenAI answered 503.", retry_after_s=60))
    wait_in_queue(store, f"{credential}|gpt-test", job.id)
    outage, line = summary(workers).waits
    assert (outage.reason, outage.what) == ("openai", credential)
    assert outage.message == "OpenAI answered 503."
    assert outage.until is not None
    assert (line.reason, line.what, line.jobs) == ("capacity", f"{credential}|gpt-test", 1)
    store.run(backoff.clear(credential))
    store.run(quota_queues.advance(f"{credential}|gpt-test", job.id, batch_ended=False))
    assert summary(workers).waits == ()


def test_the_summary_counts_workers_that_are_alive(workers: Team) -> None:
    store = workers.runtime.store
    store.run(heartbeats.beat("celery@a", ["submit", "poll"]))
    store.run(heartbeats.beat("celery@b", ["poll"]))
    silent = f"{workers.redis_key('workers')}"
    store.redis.zadd(silent, {"celery@c poll": store.run(records.time()) - 120})
    assert summary(workers).workers == {"submit": 1, "poll": 2}


def test_nothing_is_a_summary_too(workers: Team) -> None:
    told = summary(workers)
    assert (told.running, told.queued, told.waits, told.workers) == (0, 0, (), {})
    assert (told.oldest_batch, told.since, told.polled_at) == (None, None, None)


def test_how_long_nobody_knew_is_counted_once(workers: Team) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    workers.poll(job_id)
    workers.poll(job_id)
    tell(workers, job_id)
    counters = workers.runtime.store.run(metrics.counters())
    assert sum(n for (name, *_), n in counters.items() if name == "knowing_bucket") == 1
