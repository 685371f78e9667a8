"""OpenAI's limit of enqueued tokens, and the quota queues of the jobs that wait for it.

OpenAI reports that the limit is reached as a batch that failed with ``token_limit_exceeded`` while
it was validated, and counts tokens per model. So there is one queue for each credential and model,
in the order in which the jobs were created. The first job tries again when a batch of its model
ends, and in any case after a while; the others, and new jobs, wait behind it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from openai.types import Batch

from batchflow.jobs import Job
from batchflow.settings import Settings
from batchflow.store import quota_queues, records
from batchflow.store.command import Command
from batchflow_workers.observation import Observation, errors_of
from batchflow_workers.policy import Policy
from batchflow_workers.runtime import Runtime


class Move(NamedTuple):
    """A job that leaves a quota queue; if its batch ended, there may be room for the first one."""

    queue: str
    job_id: str
    batch_ended: bool


def with_model(runtime: Runtime, job: Job, source: str) -> Job:
    """The job with the model of its input file, if an upload job knows it: it decides the queue."""
    if job.model or not job.input_file_id:
        return job
    upload_id = runtime.store.run(records.find_job(job.input_file_id))
    upload = runtime.store.run(records.get(upload_id)) if upload_id else None
    if not upload or not upload.model:
        return job
    runtime.update(job.id, source, {"model": upload.model})
    return job.model_copy(update={"model": upload.model})


def has_to_wait(runtime: Runtime, job: Job, source: str) -> bool:
    """Whether other jobs come first. Then the job joins their queue, and its message says so."""
    queue = _queue_of(job)
    if _first_waiting(runtime, queue) in (None, job.id):
        return False
    joined = runtime.store.run(
        quota_queues.join(
            queue,
            job.id,
            source=source,
            message=_message(job.model),
            retry_in_s=_retry_in_s(runtime.settings, runtime.policy),
        )
    )
    return joined.outcome is not records.UpdateOutcome.FIRST


def requeue(
    observation: Observation, source: str, settings: Settings, policy: Policy
) -> Command[records.Updated]:
    """Put a job whose batch was over the limit into its queue, or end it if it waited too long or
    its cancellation was requested."""
    job, batch = observation.job, observation.batch
    hours = settings.quota_wait_s / 3_600
    return quota_queues.requeue(
        _queue_of(job, batch),
        job.id,
        of_batch=records.NO_BATCH if observation.new else batch.id,
        openai_status=str(batch.status),
        model=job.model or batch.model or "",
        source=source,
        message=_message(job.model or batch.model),
        retry_in_s=_retry_in_s(settings, policy),
        longest_wait_s=settings.quota_wait_s,
        waited_too_long=f"OpenAI had no quota within {hours:g} h. {errors_of(batch)}",
    )


def moves_of(observation: Observation, *, batch_ended: bool) -> list[Move]:
    """The queues that a job may be in: its model may have become known while it waited."""
    job, batch = observation.job, observation.batch
    queues = {_queue_of(job, batch), _queue_of(job), f"{job.spec.credential}|"}
    return [Move(queue, job.id, batch_ended) for queue in sorted(queues)]


def advance(runtime: Runtime, moves: Iterable[Move]) -> None:
    """Take jobs out of their queues, and make the first one that still waits due now."""
    # A command must declare the record that it reads, so it first returns whose that is.
    pending = dict.fromkeys(moves, "")
    while pending:
        replies = runtime.store.run_all(
            [quota_queues.advance(*move, first=first) for move, first in pending.items()]
        )
        pending = {
            move: reply.first
            for move, reply in zip(pending, replies, strict=True)
            if not reply.done and reply.first
        }


def _first_waiting(runtime: Runtime, queue: str) -> str | None:
    reply = runtime.store.run(quota_queues.first(queue))
    while not reply.done and reply.first:
        reply = runtime.store.run(quota_queues.first(queue, reply.first))
    return reply.first


def _retry_in_s(settings: Settings, policy: Policy) -> float:
    return settings.poll_interval_s * policy.quota_retry_intervals


def _message(model: str | None) -> str:
    """What a waiting job says; its position follows."""
    of_model = f" for {model}" if model else ""
    return f"Waiting for quota: OpenAI's limit of enqueued tokens{of_model} is reached"


def _queue_of(job: Job, batch: Batch | None = None) -> str:
    model = job.model or (batch.model if batch else None) or ""
    return f"{job.spec.credential}|{model}"
