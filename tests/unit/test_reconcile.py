"""How observations of a batch change its job, with a store in memory."""

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import fakeredis
import pytest
from batchflow_workers.observation import Observation, classify
from batchflow_workers.policy import Policy
from batchflow_workers.reconcile import change
from batchflow_workers.schedule import Conditions, wait_s
from openai.types import Batch
from redis import Redis

from batchflow.jobs import BatchSpec, Credential, Job, JobRequest, random_job_id
from batchflow.settings import Settings
from batchflow.states import JobState, Phase, Stage
from batchflow.store import JobStore, records

POLL_S = 10
POLICY = Policy()
SETTINGS = Settings(poll_interval_s=POLL_S)
NOW = int(time.time())


def counts(total: int, completed: int, failed: int = 0) -> dict[str, int]:
    return {"total": total, "completed": completed, "failed": failed}


def errors(count: int) -> dict[str, Any]:
    problems = [
        {"code": "invalid_json_line", "line": n, "message": f"Problem {n}."}
        for n in range(1, count + 1)
    ]
    return {"object": "list", "data": problems}


def batch(status: str, **fields: Any) -> Batch:
    """A batch as the SDK returns it, unvalidated."""
    always: dict[str, Any] = {
        "id": "batch_1",
        "object": "batch",
        "completion_window": "24h",
        "endpoint": "/v1/responses",
        "input_file_id": "file-1",
        "created_at": NOW,
        "metadata": {},
    }
    return Batch.construct(**always | {"status": status} | fields)


def existing(store: JobStore, job_request: JobRequest) -> Job:
    job = store.run(records.get(job_request.job_id))
    assert job is not None
    return job


Observed = Callable[..., Job]


@pytest.fixture
def observed() -> Iterator[Observed]:
    """Applies observations to a new job, in this order, and returns the job."""
    with cast(Redis, fakeredis.FakeRedis(decode_responses=True)) as redis:
        store = JobStore(redis, "test")

        def see(*batches: Batch) -> Job:
            spec = BatchSpec(credential=Credential(), input_file_id="file-1", config={})
            job_request = JobRequest(job_id=random_job_id(), spec=spec)
            store.run(records.create(job_request, due_in_s=0))
            store.run(records.begin(job_request.job_id))
            for shown in batches:
                job = existing(store, job_request)
                store.run(
                    change(
                        Observation(job, shown, new=not job.batch_id),
                        classify(job, shown, policy=POLICY, now_s=NOW),
                        "poll",
                        Conditions(SETTINGS, POLICY, NOW),
                    )
                )
            return existing(store, job_request)

        yield see


@pytest.mark.parametrize(
    ("status", "stage", "phase"),
    [
        ("validating", Stage.VALIDATING, Phase.INITIALIZING),
        ("in_progress", Stage.IN_PROGRESS, Phase.RUNNING),
        ("finalizing", Stage.FINISHING, Phase.RUNNING),
        ("cancelling", Stage.FINISHING, Phase.RUNNING),
        ("paused", Stage.NONE, Phase.INITIALIZING),
    ],
)
def test_a_batch_under_way(observed: Observed, status: str, stage: Stage, phase: Phase) -> None:
    job = observed(batch(status, request_counts=counts(8, 3, 1)))
    assert (job.state, job.stage, job.openai_status) == (JobState.RUNNING, stage, status)
    assert job.phase is phase
    assert (job.batch_id, job.total, job.completed, job.failed) == ("batch_1", 8, 3, 1)
    assert job.checked_at is not None
    assert job.source == "poll"


@pytest.mark.parametrize(
    ("files", "request_counts", "completed_s_ago", "state"),
    [
        ({}, counts(3, 3), 0, JobState.RUNNING),
        ({}, counts(3, 3), 100, JobState.RUNNING),
        ({}, counts(3, 3), 3_600, JobState.SUCCEEDED),
        ({}, None, 0, JobState.RUNNING),
        ({}, counts(0, 0), 0, JobState.SUCCEEDED),
        ({}, counts(3, 0, 3), 0, JobState.RUNNING),
        ({"error_file_id": "file-3"}, counts(3, 0, 3), 0, JobState.SUCCEEDED),
        ({"error_file_id": "file-3"}, counts(3, 2, 1), 0, JobState.RUNNING),
        ({"output_file_id": "file-2"}, counts(3, 3), 0, JobState.SUCCEEDED),
        ({"output_file_id": "file-2"}, counts(3, 2, 1), 0, JobState.RUNNING),
        ({"output_file_id": "file-2"}, counts(3, 2, 1), 3_600, JobState.SUCCEEDED),
        (
            {"output_file_id": "file-2", "error_file_id": "file-3"},
            counts(3, 2, 1),
            0,
            JobState.SUCCEEDED,
        ),
    ],
)
def test_a_completed_batch_waits_for_the_files_that_its_counts_imply(
    observed: Observed,
    files: dict[str, str],
    request_counts: dict[str, int] | None,
    completed_s_ago: int,
    state: JobState,
) -> None:
    ended_at = NOW - completed_s_ago
    job = observed(
        batch("completed", request_counts=request_counts, completed_at=ended_at, **files)
    )
    assert job.state is state
    assert bool(job.result) is job.succeeded
    if not job.terminal:
        assert job.message == "The batch is completed; waiting for OpenAI to show its files"
        assert job.stage is Stage.FINISHING


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (None, "OpenAI refused the batch. OpenAI gave no reason."),
        (errors(0), "OpenAI refused the batch. OpenAI gave no reason."),
        (errors(2), "OpenAI refused the batch. line 1: Problem 1.; line 2: Problem 2."),
        (
            {"data": [{"code": "empty_file", "line": None, "message": None}]},
            "OpenAI refused the batch. empty_file",
        ),
    ],
)
def test_failed(observed: Observed, shown: dict[str, Any] | None, message: str) -> None:
    job = observed(batch("failed", errors=shown))
    assert (job.state, job.message) == (JobState.FAILED, message)


def test_a_failure_quotes_ten_of_many_errors(observed: Observed) -> None:
    job = observed(batch("failed", errors=errors(5_000)))
    assert job.message.startswith("OpenAI refused the batch. line 1: Problem 1.; ")
    assert job.message.endswith("; line 10: Problem 10.; and 4990 more")


def test_an_unknown_status_changes_nothing_else(observed: Observed) -> None:
    job = observed(batch("in_progress", request_counts=counts(9, 7)), batch("paused"))
    assert (job.state, job.stage, job.openai_status) == (
        JobState.RUNNING,
        Stage.IN_PROGRESS,
        "paused",
    )
    assert job.completed == 7


def test_an_observation_of_another_batch_is_ignored(observed: Observed) -> None:
    other = batch("failed", errors=errors(1))
    other.id = "batch_2"
    job = observed(batch("in_progress"), other)
    assert (job.state, job.batch_id) == (JobState.RUNNING, "batch_1")


@pytest.mark.parametrize(
    ("age_s", "longest_s"),
    [
        (-60, POLL_S),
        (0, POLL_S),
        (60, POLL_S),
        (300, 30),
        (8 * POLL_S * 10, 8 * POLL_S),
        (86_400, 8 * POLL_S),
    ],
)
def test_polls_of_old_batches_are_less_frequent(age_s: int, longest_s: float) -> None:
    aged = batch("in_progress")
    aged.created_at = NOW - age_s
    assert wait_s(aged, Conditions(SETTINGS, POLICY, NOW)) == longest_s


@pytest.mark.parametrize(
    ("status", "age_s", "webhooks_active", "calls", "polls"),
    [
        ("in_progress", 0, False, 10, 4),
        ("validating", 0, True, 10, 4),
        ("in_progress", 86_400, False, 10, 8),
        ("in_progress", 86_400, False, 1_000, 32),
        ("in_progress", 86_400, False, 1_000_000, 40),
        ("in_progress", 0, True, 10, 4),
        ("in_progress", 0, True, 100, 16),
        ("in_progress", 86_400, True, 100, 40),
    ],
)
def test_polls_that_take_many_calls_are_less_frequent(
    status: str, age_s: int, webhooks_active: bool, calls: int, polls: int
) -> None:
    aged = batch(status)
    aged.created_at = NOW - age_s
    conditions = Conditions(SETTINGS, POLICY, NOW, webhooks_active, calls)
    assert wait_s(aged, conditions) == polls * POLL_S
