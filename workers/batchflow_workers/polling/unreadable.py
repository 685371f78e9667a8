"""Live jobs whose record this version can't read: they are put aside, and fail in the end.

Another version has written the record, for instance before a downgrade, or it is damaged.
"""

import logging
from collections.abc import Sequence

from redis.exceptions import ResponseError

from batchflow.jobs import Job
from batchflow.states import JobState
from batchflow.store import records
from batchflow.store.records import Isolation, Unreadable, UpdateOutcome
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: How many of them a sweep looks at again.
_CHECKED_AGAIN = 100


def read_records(runtime: Runtime, job_ids: Sequence[str]) -> list[Job | Unreadable | None]:
    """Read many records. One that is not even a hash does not hide the others."""
    commands = [records.read(job_id) for job_id in job_ids]
    try:
        return runtime.store.run_all(commands)
    except ResponseError:
        return [_read_alone(runtime, job_id) for job_id in job_ids]


def isolate(runtime: Runtime, source: str, job_id: str, record: Unreadable) -> None:
    """Put a job aside; if the time in which it could have been read is over, it fails."""
    policy = runtime.policy
    isolation, state = runtime.store.run(
        records.isolate(
            job_id, again_s=policy.unreadable_again_s, lifetime_s=policy.unreadable_lifetime_s
        )
    )
    if isolation is Isolation.NEW:
        logger.error("%s: this version can't read the record; check: %s", job_id, record.fields)
    elif isolation is Isolation.OVERDUE:
        _fail(runtime, source, job_id, record, state)


def release_readable(runtime: Runtime, source: str) -> None:
    """Release the jobs whose record has become readable, which are due now, and those that have
    ended."""
    job_ids = runtime.store.run(records.isolated(_CHECKED_AGAIN))
    if not job_ids:
        return
    found = zip(job_ids, read_records(runtime, job_ids), strict=True)
    released = {i: job for i, job in found if not isinstance(job, Unreadable) or job.ended}
    if released:
        runtime.store.run(records.release([*released]))
    for job_id, job in released.items():
        if isinstance(job, Job) and not job.terminal:
            logger.info("%s: this version can read the record now", job_id)
            runtime.update(job_id, source, due_in_s=0)


def _read_alone(runtime: Runtime, job_id: str) -> Job | Unreadable | None:
    try:
        return runtime.store.run(records.read(job_id))
    except ResponseError:
        return Unreadable("the type of the key", ended=False)


def _fail(runtime: Runtime, source: str, job_id: str, record: Unreadable, state: str) -> None:
    message = (
        f"Batchflow can't read this job's record (check: {record.fields}): another version has "
        "written it, or it is damaged. The job was given up because its time at OpenAI is over."
    )
    logger.error("%s: %s", job_id, message)
    fields = {"message": message}
    updated = runtime.store.run(
        records.update(job_id, source=source, to=JobState.FAILED, only_in=state, fields=fields)
    )
    if updated.outcome is UpdateOutcome.APPLIED:
        runtime.store.run(records.release([job_id]))
