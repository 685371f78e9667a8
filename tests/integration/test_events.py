"""The steps that refresh jobs and explain errors, and the summary of the fleet."""

import asyncio
from pathlib import Path

import pytest
from batchflow_workers.steps import explain, refresh
from batchflow_workers.steps.runner import run_step

from batchflow.overview.summary import Summary, summarize
from batchflow.states import JobKind, JobState
from batchflow.store import backoff, connect_async, heartbeats, metrics, quota_queues, records
from tests.kit.workers import MakeWorkers, Workers, lines, wait_in_queue

POLL_S = 10


@pytest.fixture
def workers(make_workers: MakeWorkers) -> Workers:
    return make_workers(poll_interval_s=POLL_S)


def end(workers: Workers, job_id: str, status: str = "completed") -> None:
    workers.emulator.end(str(workers.job(job_id).batch_id), status)


def refresh_job(workers: Workers, job_id: str) -> None:
    """Run the step that a webhook enqueues."""
    run_step(workers.runtime, refresh.SOURCE, job_id, refresh.refresh)


def summary(workers: Workers) -> Summary:
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
def test_a_webhook_ends_a_job_at_once(workers: Workers, status: str, state: JobState) -> None:
    job_id = workers.submitted()
    end(workers, job_id, status)
    with workers.calls(batches_retrieve=1, batches_list=0):
        refresh_job(workers, job_id)
    job = workers.job(job_id)
    assert (job.state, job.openai_status, job.source) == (state, status, "webhook")


def test_the_content_of_a_webhook_is_not_trusted(workers: Workers) -> None:
    job_id = workers.submitted()
    refresh_job(workers, job_id)
    assert workers.job(job_id).state is JobState.RUNNING


def test_repeated_and_late_webhooks_are_harmless(workers: Workers) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    refresh_job(workers, job_id)
    ended = workers.job(job_id)
    with workers.calls(batches_retrieve=0):
        refresh_job(workers, job_id)
    assert workers.job(job_id) == ended


def test_after_a_webhook_during_an_outage_a_poll_ends_the_job(workers: Workers) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    workers.emulator.outage(answer="status", operations=["batches.retrieve"])
    refresh_job(workers, job_id)
    assert workers.job(job_id).state is JobState.RUNNING
    assert workers.due_in_s(job_id) < POLL_S
    workers.emulator.end_outages()
    workers.end_backoff()
    workers.make_due(job_id)
    workers.work()
    assert workers.job(job_id).state is JobState.SUCCEEDED


def test_with_webhooks_polls_are_less_frequent(workers: Workers) -> None:
    running, ended = workers.submitted(), workers.submitted()
    workers.poll(running)
    assert workers.due_in_s(running) <= POLL_S
    end(workers, ended)
    refresh_job(workers, ended)
    workers.poll(running)
    assert POLL_S < workers.due_in_s(running) <= 4 * POLL_S
    end(workers, running)
    workers.make_due(running)
    workers.work()
    assert workers.job(running).state is JobState.SUCCEEDED


# The most frequent error


def test_the_most_frequent_error_is_found_on_request(workers: Workers) -> None:
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


def test_a_deleted_error_file_is_reported(workers: Workers) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    workers.poll(job_id)
    workers.change(job_id, error_file_id="file-gone")
    explain.explain(workers.runtime, job_id)
    assert "file-gone" in workers.job(job_id).top_error


def test_no_error_file_is_read_during_a_backoff(workers: Workers) -> None:
    job_id = workers.submitted()
    workers.change(job_id, error_file_id="file-1")
    store, credential = workers.store, str(workers.job(job_id).spec.credential)
    store.run(backoff.extend(credential, message="Slow down.", retry_after_s=60))
    with workers.calls(files_content=0):
        explain.explain(workers.runtime, job_id)
    assert workers.job(job_id).top_error == ""


# Summary


def test_a_summary_of_jobs(workers: Workers, tmp_path: Path) -> None:
    first, second, third = (workers.submitted() for _ in range(3))
    waiting = workers.batch()
    end(workers, second)
    end(workers, third, "failed")
    workers.poll(first, second, third)
    upload = workers.upload(str(tmp_path / "missing.jsonl"))
    workers.step(upload)
    found = summary(workers)
    assert (found.running, found.queued) == (1, 1)
    assert found.counts[JobKind.BATCH][JobState.SUCCEEDED] == 1
    assert found.counts[JobKind.UPLOAD] == dict.fromkeys(JobState, 0) | {JobState.FAILED: 1}
    assert (found.succeeded_last_hour, found.failed_last_hour) == (1, 2)
    usage = (workers.job(second).result or {})["usage"]
    assert (found.input_tokens, found.output_tokens) == (
        usage["input_tokens"],
        usage["output_tokens"],
    )
    assert found.oldest_batch == first
    assert found.oldest_batch_since == workers.job(first).created_at
    assert found.polled_at is not None
    assert abs((found.at - found.polled_at).total_seconds()) < 60
    assert found.webhook_at is None
    assert found.since is not None
    assert workers.job(waiting).state is JobState.QUEUED


def test_a_summary_of_waits(workers: Workers) -> None:
    job = workers.job(workers.submitted())
    store, credential = workers.store, str(job.spec.credential)
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


def test_a_summary_counts_live_workers(workers: Workers) -> None:
    store = workers.store
    store.run(heartbeats.beat("celery@a", ["submit", "poll"]))
    store.run(heartbeats.beat("celery@b", ["poll"]))
    silent = f"{workers.redis_key('workers')}"
    store.redis.zadd(silent, {"celery@c poll": store.run(records.time()) - 120})
    assert summary(workers).workers == {"submit": 1, "poll": 2}


def test_a_summary_of_an_empty_store(workers: Workers) -> None:
    found = summary(workers)
    assert (found.running, found.queued, found.waits, found.workers) == (0, 0, (), {})
    assert (found.oldest_batch, found.since, found.polled_at) == (None, None, None)


def test_the_completion_lag_is_counted_once(workers: Workers) -> None:
    job_id = workers.submitted()
    end(workers, job_id)
    workers.poll(job_id)
    workers.poll(job_id)
    refresh_job(workers, job_id)
    counters = workers.store.run(metrics.counters())
    assert sum(n for (name, *_), n in counters.items() if name == "knowing_bucket") == 1
