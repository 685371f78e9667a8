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
from batchflow.store import commands
from batchflow_workers.observe import errors_of, observe
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: The first in line tries again after this many poll intervals, if no batch ends before.
_PATIENCE_POLLS = 20

_CODE = "token_limit_exceeded"


def out_of_tokens(batch: Batch) -> bool:
    """Whether a batch failed for the limit alone, and so may be made again."""
    errors = (batch.errors.data if batch.errors else None) or []
    return batch.status == "failed" and any(error.code == _CODE for error in errors)


def record(
    runtime: Runtime, observed: list[tuple[Job, Batch]], source: str, *, new: bool = False
) -> list[commands.Updated]:
    """Write what was seen of batches into their jobs, and move the lines on.

    ``new`` says that the batches were made, or found again, just now.
    """
    updates = runtime.store.run_all(
        [
            _wait(runtime, job, batch, source, new=new)
            if out_of_tokens(batch)
            else observe(job, batch, source=source, settings=runtime.settings, new=new)
            for job, batch in observed
        ]
    )
    for job, batch in observed:
        if out_of_tokens(batch):
            runtime.store.run(commands.join_line(_line(job, batch), job))
        elif stage_of(batch.status) >= Stage.IN_PROGRESS:
            _move_on(runtime, job, batch)
    return updates


def ahead_in_line(runtime: Runtime, job: Job) -> int:
    """How many jobs go before this one; 0 if it is its turn, or nobody waits."""
    line = _line(job)
    while (first := runtime.store.run(commands.first_in_line(line))) not in (None, job.id):
        other = runtime.store.run(commands.get(str(first)))
        admitted = other and other.batch_id and other.stage >= Stage.IN_PROGRESS
        if other and not other.terminal and not admitted:
            runtime.store.run(commands.join_line(line, job))
            return runtime.store.run(commands.place_in_line(line, job.id))
        runtime.store.run(commands.leave_line(line, str(first)))
    return 0


def patience_s(runtime: Runtime) -> float:
    """After how long the first in line tries again without being told."""
    return runtime.settings.poll_interval_s * _PATIENCE_POLLS


def waiting_message(job: Job, ahead: int) -> str:
    """What a waiting job says."""
    model = f" for {job.model}" if job.model else ""
    place = {0: "it is next", 1: "1 job is before it"}.get(ahead, f"{ahead} jobs are before it")
    return f"Waiting for capacity: OpenAI's limit of enqueued tokens{model} is reached; {place}"


def _wait(
    runtime: Runtime, job: Job, batch: Batch, source: str, *, new: bool
) -> commands.Command[commands.Updated]:
    now_s = runtime.store.run(commands.time())
    since_s = job.waiting_since.timestamp() if job.waiting_since else now_s
    fields: dict[str, str | int | None] = {"openai_status": str(batch.status)}
    to: JobState | None = None
    if now_s - since_s > runtime.settings.quota_wait_s:
        hours = runtime.settings.quota_wait_s / 3_600
        to = JobState.FAILED
        fields["message"] = f"OpenAI had no capacity for {hours:g} hours. {errors_of(batch)}"
    else:
        logger.info("%s: %s had to wait for capacity", job.id, batch.id)
        fields |= {
            "message": waiting_message(job, 0),
            "waiting_since": f"{since_s:.6f}",
            # That batch is done with; what was made of it is known, so nothing is looked for.
            "batch_id": None,
            "tries": None,
            "model": job.model or batch.model,
        }
    return commands.update(
        job.id,
        source=source,
        to=to,
        of_batch=commands.NO_BATCH if new else batch.id,
        due_in_s=patience_s(runtime),
        fields=fields,
    )


def _move_on(runtime: Runtime, job: Job, batch: Batch) -> None:
    """A batch was admitted or has ended: whoever waits for that gets his turn."""
    ended = stage_of(batch.status) is Stage.ENDED
    for line in {_line(job, batch), _line(job), f"{job.spec.credential}|"}:
        was_waiting = runtime.store.run(commands.leave_line(line, job.id))
        first = runtime.store.run(commands.first_in_line(line)) if was_waiting or ended else None
        if first:
            runtime.update(first, "capacity", due_in_s=0)


def _line(job: Job, batch: Batch | None = None) -> str:
    model = job.model or (batch.model if batch else None) or ""
    return f"{job.spec.credential}|{model}"
