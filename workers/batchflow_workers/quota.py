"""OpenAI's limit on enqueued tokens: whoever exceeds it waits in line and goes again.

OpenAI reports it as a batch that failed with ``token_limit_exceeded`` while it was validated, and
counts tokens per model. So there is one line for each credential and model, in the order in which
the jobs were made. The first in line tries again when a batch of its line's model ends, and after a
while in any case; the others wait for it, and new jobs behind them.
"""

import logging

from openai.types import Batch

from batchflow.jobs import Job
from batchflow.states import JobState, Stage, stage_of
from batchflow.store import deliveries, metrics, quota_queues, records
from batchflow.store.command import Command
from batchflow_workers.reconcile import ended_at, errors_of, observe
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: A job in line tries again after this many poll intervals, if no batch ends before.
_PATIENCE_POLLS = 20

_CODE = "token_limit_exceeded"


def out_of_tokens(batch: Batch) -> bool:
    """Whether a batch failed for the limit alone, and so may be made again."""
    errors = (batch.errors.data if batch.errors else None) or []
    return batch.status == "failed" and any(error.code == _CODE for error in errors)


def record(
    runtime: Runtime,
    observed: list[tuple[Job, Batch]],
    source: str,
    *,
    new: bool = False,
    calls: float = 1,
) -> list[records.Updated]:
    """Write what was seen of batches into their jobs, and move the lines on.

    They share a credential. ``new`` says that they were made, or found again, just now; ``calls``,
    how many it takes to see all that was due with them.
    """
    pushed = bool(observed) and runtime.store.run(
        deliveries.webhooks_active(str(observed[0][0].spec.credential))
    )
    refused = [(job, batch) for job, batch in observed if out_of_tokens(batch)]
    # First of all, so that each learns its place.
    joined = {
        job.id
        for job, batch in refused
        if runtime.store.run(quota_queues.join(_line(job, batch), job))
    }
    updates = runtime.store.run_all(
        [
            _wait(runtime, job, batch, source, new=new)
            if out_of_tokens(batch)
            else observe(
                job,
                batch,
                source=source,
                settings=runtime.settings,
                new=new,
                pushed=pushed,
                calls=calls,
            )
            for job, batch in observed
        ]
    )
    _count_ends(runtime, observed, updates, source)
    for (job, batch), updated in zip(observed, updates, strict=True):
        if out_of_tokens(batch):
            _after_refusal(runtime, job, batch, updated, source, joined=job.id in joined)
    for job, batch in observed:
        stage = stage_of(batch.status)
        admitted = job.stage < Stage.IN_PROGRESS <= stage
        if not out_of_tokens(batch) and (admitted or stage is Stage.ENDED):
            _move_on(runtime, job, batch)
    return updates


def _count_ends(
    runtime: Runtime,
    observed: list[tuple[Job, Batch]],
    updates: list[records.Updated],
    source: str,
) -> None:
    """Count the tokens of batches that ended by this, and how long nobody here knew."""
    ended = [
        batch
        for (_, batch), updated in zip(observed, updates, strict=True)
        if updated.outcome is records.UpdateOutcome.APPLIED
        and updated.state
        and updated.state.terminal
    ]
    if not ended:
        return
    counted: list[Command[float]] = []
    now_s = runtime.store.run(records.time())
    for batch in ended:
        if batch.usage:
            counted.append(metrics.count("tokens", "input", by=batch.usage.input_tokens))
            counted.append(metrics.count("tokens", "output", by=batch.usage.output_tokens))
        if ended_s := ended_at(batch):
            counted += metrics.observation("knowing", now_s - ended_s, source)
    runtime.store.run_all(counted)


def with_model(runtime: Runtime, job: Job, source: str) -> Job:
    """The job with the model of its file, on which its line depends, if that can be known."""
    if job.model or not job.input_file_id:
        return job
    upload_id = runtime.store.run(records.find_job(job.input_file_id))
    upload = runtime.store.run(records.get(upload_id)) if upload_id else None
    if not upload or not upload.model:
        return job
    runtime.update(job.id, source, {"model": upload.model})
    return job.model_copy(update={"model": upload.model})


def has_to_wait(runtime: Runtime, job: Job, source: str) -> bool:
    """Whether others go before this job, which then waits behind them and says so."""
    line = _line(job)
    if _first_in(runtime, line) in (None, job.id):
        return False
    runtime.store.run(quota_queues.join(line, job))
    ahead = runtime.store.run(quota_queues.position(line, job.id))
    if not ahead:
        return False
    fields: dict[str, str | int | None] = {"message": _message(job.model, ahead)}
    if not job.waiting_since:
        fields["waiting_since"] = f"{runtime.store.run(records.time()):.6f}"
    runtime.update(job.id, source, fields, due_in_s=_patience_s(runtime))
    return True


def _patience_s(runtime: Runtime) -> float:
    """After how long a job in line tries again without being told."""
    return runtime.settings.poll_interval_s * _PATIENCE_POLLS


def _message(model: str | None, ahead: int) -> str:
    """What a waiting job says."""
    of = f" for {model}" if model else ""
    place = {0: "it is next", 1: "1 job is before it"}.get(ahead, f"{ahead} jobs are before it")
    return f"Waiting for capacity: OpenAI's limit of enqueued tokens{of} is reached; {place}"


def _wait(
    runtime: Runtime, job: Job, batch: Batch, source: str, *, new: bool
) -> Command[records.Updated]:
    now_s = runtime.store.run(records.time())
    since_s = job.waiting_since.timestamp() if job.waiting_since else now_s
    fields: dict[str, str | int | None] = {"openai_status": str(batch.status)}
    to: JobState | None = None
    if job.cancel_requested:
        to = JobState.CANCELLED
    elif now_s - since_s > runtime.settings.quota_wait_s:
        hours = runtime.settings.quota_wait_s / 3_600
        to = JobState.FAILED
        fields["message"] = f"OpenAI had no capacity for {hours:g} hours. {errors_of(batch)}"
    else:
        logger.info("%s: %s had to wait for capacity", job.id, batch.id)
        ahead = runtime.store.run(quota_queues.position(_line(job, batch), job.id))
        fields |= {
            "message": _message(job.model or batch.model, ahead),
            "waiting_since": f"{since_s:.6f}",
            # That batch is done with; what was made of it is known, so nothing is looked for.
            "batch_id": None,
            "tries": None,
            "model": job.model or batch.model,
        }
    return records.update(
        job.id,
        source=source,
        to=to,
        of_batch=records.NO_BATCH if new else batch.id,
        due_in_s=_patience_s(runtime),
        fields=fields,
    )


def _after_refusal(
    runtime: Runtime,
    job: Job,
    batch: Batch,
    updated: records.Updated,
    source: str,
    *,
    joined: bool,
) -> None:
    """See to it that only a job that really waits stands in line."""
    if updated.outcome is records.UpdateOutcome.STALE:
        # The job has another batch by now.
        if joined:
            runtime.store.run(quota_queues.leave(_line(job, batch), job.id))
        return
    waits = updated.state is not None and not updated.state.terminal
    if waits and updated.cancel_requested:
        # The wish came meanwhile, and no batch is left to cancel.
        runtime.update(job.id, source, {"message": "Cancelled."}, to=JobState.CANCELLED)
        waits = False
    if not waits:
        _move_on(runtime, job, batch)


def _move_on(runtime: Runtime, job: Job, batch: Batch) -> None:
    """A batch was admitted or has ended: whoever waits for that gets his turn."""
    ended = stage_of(batch.status) is Stage.ENDED
    for line in {_line(job, batch), _line(job), f"{job.spec.credential}|"}:
        was_waiting = runtime.store.run(quota_queues.leave(line, job.id))
        first = _first_in(runtime, line) if was_waiting or ended else None
        if first:
            runtime.update(first, "capacity", due_in_s=0)


def _first_in(runtime: Runtime, line: str) -> str | None:
    """Who has waited longest and still does; those that don't leave the line."""
    while first := runtime.store.run(quota_queues.first(line)):
        job = runtime.store.run(records.get(first))
        admitted = job and job.batch_id and stage_of(job.openai_status) >= Stage.IN_PROGRESS
        if job and not job.terminal and not admitted:
            return first
        runtime.store.run(quota_queues.leave(line, first))
    return None


def _line(job: Job, batch: Batch | None = None) -> str:
    model = job.model or (batch.model if batch else None) or ""
    return f"{job.spec.credential}|{model}"
