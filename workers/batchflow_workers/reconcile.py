"""What a batch as OpenAI shows it means for its job. The poll, the submit step and every other
reader of batches write through here."""

import time
from typing import Any

import orjson
from openai.types import Batch

from batchflow.jobs import BatchSpec, Job
from batchflow.settings import Settings
from batchflow.states import JobState, Stage, stage_of, state_of
from batchflow.store import records
from batchflow.store.command import Command
from batchflow_workers.polling.schedule import spacing, until_tick_s

#: For so long a batch that ended may be without the file id that its counts call for. Other
#: servers than OpenAI write failed requests into the output file, and name no error file.
_OUTPUT_LAG_S = 600
_ERRORS_LAG_S = 15
#: How many of OpenAI's errors a message quotes.
_QUOTED_ERRORS = 10
#: A batch is asked about at most this many times less often than a young one.
_SLOWEST = 8
#: After this share of a batch's age it is asked about again.
_AGE_SHARE = 0.1
#: A batch that OpenAI has yet to begin with is asked about after this at the latest, in seconds.
#: It may fail before its webhook finds the job's record.
_BEGINNING_S = 30
#: So many times less often is asked about a batch whose end a webhook will tell, and at most.
_PUSHED = 4
_PUSHED_SLOWEST = 40


def observe(
    job: Job,
    batch: Batch,
    *,
    source: str,
    settings: Settings,
    new: bool = False,
    pushed: bool = False,
    calls: float = 1,
) -> Command[records.Updated]:
    """The change that an observation makes. It is guarded: late and repeated ones do no harm.

    ``new`` says that the batch was made, or found again, just now; else it must be the job's.
    ``pushed`` says that OpenAI's webhooks come for it, and ``calls`` how many it takes to ask about
    it and all that are due with it.
    """
    state = _state(job, batch)
    stage = Stage.FINISHING if _lagging(batch) else stage_of(batch.status)
    done = state is JobState.SUCCEEDED
    counts = batch.request_counts
    fields: dict[str, str | int | None] = {
        "batch_id": batch.id,
        "openai_status": str(batch.status),
        "message": _message(job, batch, state),
        "failures": None,
        "total": counts.total if counts else 0,
        "completed": counts.completed if counts else 0,
        "failed": counts.failed if counts else 0,
    }
    for name in ("output_file_id", "error_file_id", "expires_at"):
        if value := getattr(batch, name, None):
            fields[name] = str(value)
    if state.terminal and batch.usage:
        fields["input_tokens"] = batch.usage.input_tokens
        fields["output_tokens"] = batch.usage.output_tokens
    if batch.model and not job.model:
        # OpenAI names the exact version of what was asked for; lines are for what was asked for.
        fields["model"] = batch.model
    if stage_of(batch.status) >= Stage.IN_PROGRESS:
        fields["waiting_since"] = None
    if done:
        fields["result"] = orjson.dumps(_result(job, batch)).decode()
    return records.update(
        job.id,
        source=source,
        to=state,
        of_batch=records.NO_BATCH if new else batch.id,
        # A record that was made again claims a stage that its batch may have yet to reach.
        stage=max(stage, job.stage) if new else stage,
        due_in_s=None
        if state.terminal
        else until_tick_s(
            next_poll_s(batch, settings, pushed=pushed, calls=calls),
            settings.poll_interval_s,
            str(job.spec.credential),
            time.time(),
        ),
        fields=fields,
    )


def next_poll_s(
    batch: Batch, settings: Settings, *, pushed: bool = False, calls: float = 1
) -> float:
    """In how many seconds to ask again, at the latest: often while a batch is young and few are
    due with it, less often later, and seldom when its end will be told."""
    interval_s = settings.poll_interval_s
    if _lagging(batch):
        return interval_s
    if stage_of(batch.status) < Stage.IN_PROGRESS:
        interval_s = min(interval_s, _BEGINNING_S)
    age_s = time.time() - batch.created_at
    told = pushed and stage_of(batch.status) is Stage.IN_PROGRESS
    fastest, slowest = (_PUSHED, _PUSHED_SLOWEST) if told else (1, _SLOWEST)
    fastest = max(fastest, min(spacing(calls), _PUSHED_SLOWEST))
    return max(interval_s * fastest, min(age_s * _AGE_SHARE, interval_s * slowest))


def ended_at(batch: Batch) -> int | None:
    """When OpenAI says that a batch ended, epoch seconds; None if it hasn't."""
    return batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at


def _state(job: Job, batch: Batch) -> JobState:
    if _lagging(batch):
        return JobState.RUNNING
    state = state_of(batch.status)
    if batch.status == "cancelled" and job.cancel_requested:
        return JobState.CANCELLED
    accepts = isinstance(job.spec, BatchSpec) and job.spec.accept_partial
    if batch.status == "expired" and batch.output_file_id and accepts:
        return JobState.SUCCEEDED
    return state


def _lagging(batch: Batch) -> bool:
    """Whether a batch has ended and the file ids that its counts call for have yet to appear."""
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
    nothing_yet = batch.status == "completed" and not (batch.output_file_id or batch.error_file_id)
    if (completed and not batch.output_file_id) or (nothing_yet and total):
        lag_s = _OUTPUT_LAG_S
    elif failed and not batch.error_file_id:
        lag_s = _ERRORS_LAG_S
    else:
        return False
    return time.time() - (ended[batch.status] or batch.created_at) < lag_s


def _result(job: Job, batch: Batch) -> dict[str, Any]:
    result = batch.to_dict(mode="json")
    asked = job.spec.config.get("metadata") if isinstance(job.spec, BatchSpec) else None
    if asked:
        # One of 16 pairs had to give way to ours.
        result["metadata"] = {**asked, **(batch.metadata or {})}
    return dict(result)


def _message(job: Job, batch: Batch, state: JobState) -> str:
    counts = batch.request_counts
    done, total = (counts.completed, counts.total) if counts else (0, 0)
    part = f"{done} of {total} requests were done"
    kept = ", ".join(
        f"{name} file {file_id}"
        for name, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id))
        if file_id
    )
    kept = f" What was done is kept: {kept}." if kept else ""
    match batch.status, state:
        case "completed" | "expired" | "cancelled", JobState.RUNNING:
            waits = f"The batch is {batch.status}; waiting for OpenAI to show its files"
            return job.message if job.cancel_requested else waits
        case "failed", _:
            return f"OpenAI refused the batch. {errors_of(batch)}{kept}"
        case "expired", _:
            return f"The batch expired at OpenAI before it was finished; {part}.{kept}"
        case "cancelled", JobState.CANCELLED:
            return f"{job.message or 'Cancelled.'} {part[0].upper()}{part[1:]}.{kept}"
        case "cancelled", _:
            return f"The batch was cancelled at OpenAI; {part}.{kept}"
    return job.message if job.cancel_requested else ""


def errors_of(batch: Batch) -> str:
    """Why OpenAI says that a batch failed, in a sentence or a few."""
    errors = (batch.errors.data if batch.errors else None) or []
    quoted = [
        f"line {error.line}: {error.message or error.code}"
        if error.line is not None
        else str(error.message or error.code)
        for error in errors[:_QUOTED_ERRORS]
    ]
    more = len(errors) - len(quoted)
    if more > 0:
        quoted.append(f"and {more} more")
    return "; ".join(quoted) or "It gave no reason."
