"""What OpenAI reported about a batch, and what that means for its job."""

from dataclasses import dataclass
from typing import Any

from openai.types import Batch

from batchflow.jobs import BatchSpec, Job
from batchflow.states import JobState, Stage, stage_of, state_of
from batchflow_workers.policy import Policy

#: How many of OpenAI's errors a message quotes.
_MAX_QUOTED_ERRORS = 10
_TOKEN_LIMIT = "token_limit_exceeded"  # noqa: S105 - an error code of OpenAI's


@dataclass(frozen=True)
class Observation:
    """A batch as OpenAI reported it, and the job that it belongs to."""

    job: Job
    batch: Batch
    #: Whether the batch was created, or found again, just now. Else it is the job's already.
    new: bool = False


@dataclass(frozen=True)
class Classification:
    """What an observation means for its job."""

    state: JobState
    stage: Stage
    #: The batch has ended, and a file that its counts imply is not visible yet.
    files_pending: bool = False
    #: The limit of enqueued tokens is the only reason why the batch failed; it may be repeated.
    over_quota: bool = False

    @property
    def admitted(self) -> bool:
        """Whether the batch counts against the limit of enqueued tokens, or has done so."""
        return not self.over_quota and self.stage >= Stage.IN_PROGRESS


def classify(job: Job, batch: Batch, *, policy: Policy, now_s: float) -> Classification:
    """Classify what OpenAI reports at ``now_s``, epoch seconds."""
    if is_over_quota(batch):
        return Classification(JobState.RUNNING, Stage.NONE, over_quota=True)
    if _files_pending(batch, policy, now_s):
        return Classification(JobState.RUNNING, Stage.FINISHING, files_pending=True)
    return Classification(state_for(job, batch), stage_of(batch.status))


def is_over_quota(batch: Batch) -> bool:
    """Whether OpenAI refused a batch for its limit of enqueued tokens."""
    errors = (batch.errors.data if batch.errors else None) or []
    return batch.status == "failed" and any(error.code == _TOKEN_LIMIT for error in errors)


def ended_at_s(batch: Batch) -> int | None:
    """When a batch ended according to OpenAI, epoch seconds; None if it has not."""
    return batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at


def result_of(job: Job, batch: Batch) -> dict[str, Any]:
    """The output of the job's task: the batch, with all of the user's metadata."""
    result = batch.to_dict(mode="json")
    users = job.spec.config.get("metadata") if isinstance(job.spec, BatchSpec) else None
    if users:
        # With 16 pairs, one was replaced by ours.
        result["metadata"] = {**users, **(batch.metadata or {})}
    return dict(result)


def message_of(job: Job, batch: Batch, found: Classification) -> str:
    """The job's message; empty if there is nothing to say."""
    if found.files_pending:
        waiting = f"The batch is {batch.status}; waiting for OpenAI to show its files"
        return job.message if job.cancel_requested else waiting
    counts = batch.request_counts
    done, total = (counts.completed, counts.total) if counts else (0, 0)
    part = f"{done} of {total} requests were completed"
    files = ", ".join(
        f"{name} file {file_id}"
        for name, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id))
        if file_id
    )
    kept = f" OpenAI keeps the results: {files}." if files else ""
    match batch.status, found.state:
        case "failed", _:
            return f"OpenAI refused the batch. {errors_of(batch)}{kept}"
        case "expired", _:
            return f"The batch expired at OpenAI before it was finished; {part}.{kept}"
        case "cancelled", JobState.CANCELLED:
            return f"{job.message or 'Cancelled.'} {part}.{kept}"
        case "cancelled", _:
            return f"The batch was cancelled at OpenAI; {part}.{kept}"
    return job.message if job.cancel_requested else ""


def errors_of(batch: Batch) -> str:
    """Why a batch failed, in OpenAI's words."""
    errors = (batch.errors.data if batch.errors else None) or []
    quoted = [
        f"line {error.line}: {error.message or error.code}"
        if error.line is not None
        else str(error.message or error.code)
        for error in errors[:_MAX_QUOTED_ERRORS]
    ]
    more = len(errors) - len(quoted)
    if more > 0:
        quoted.append(f"and {more} more")
    return "; ".join(quoted) or "OpenAI gave no reason."


def state_for(job: Job, batch: Batch) -> JobState:
    """The state of a job whose batch has this status, and all files that it will have."""
    if batch.status == "cancelled" and job.cancel_requested:
        return JobState.CANCELLED
    accepts_partial = isinstance(job.spec, BatchSpec) and job.spec.accept_partial
    if batch.status == "expired" and batch.output_file_id and accepts_partial:
        return JobState.SUCCEEDED
    return state_of(batch.status)


def _files_pending(batch: Batch, policy: Policy, now_s: float) -> bool:
    ended = {
        "completed": batch.completed_at,
        "expired": batch.expired_at,
        "cancelled": batch.cancelled_at,
    }
    if batch.status not in ended:
        return False
    counts = batch.request_counts
    completed, failed, total = (
        (counts.completed, counts.failed, counts.total) if counts else (0, 0, 1)
    )
    no_file = batch.status == "completed" and not (batch.output_file_id or batch.error_file_id)
    if (completed and not batch.output_file_id) or (no_file and total):
        lag_s = policy.output_file_lag_s
    elif failed and not batch.error_file_id:
        lag_s = policy.error_file_lag_s
    else:
        return False
    return now_s - (ended[batch.status] or batch.created_at) < lag_s
