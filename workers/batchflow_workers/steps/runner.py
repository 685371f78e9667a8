"""What all steps about one job share: its lease, its record, and what a failure means."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batchflow.errors import (
    BlobUnavailable,
    CredentialMissing,
    CredentialRefused,
    InvalidInput,
    LeaseLost,
    OpenAIRefused,
    OpenAIUnavailable,
    StoreUnavailable,
)
from batchflow.jobs import Job
from batchflow.states import JobState
from batchflow.store import records
from batchflow.store.backoff import Backoff
from batchflow_workers.backoff import back_off, clear_backoff, current_backoff
from batchflow_workers.lease import Lease, lease
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: Advances a live job, under the job's lease.
StepFunction = Callable[[Runtime, Job, Lease], None]


def run_step(runtime: Runtime, source: str, job_id: str, step: StepFunction) -> None:
    """Run a step of a live job under the job's lease.

    A failure is written to the job's record. It ends the job if trying again would not help, and
    postpones it otherwise.
    """
    try:
        with lease(runtime.store, job_id, runtime.settings.lease_s) as held:
            if held is None:
                logger.info("%s: another worker has the lease", job_id)
                return
            with _started(runtime, job_id) as job:
                if job is None or job.terminal:
                    logger.info("%s: nothing to do", job_id)
                elif job.starts > runtime.policy.max_starts:
                    _give_up_started(runtime, source, job)
                elif pause := current_backoff(runtime, job.spec.credential):
                    _wait(runtime, source, job_id, pause)
                else:
                    _run(runtime, source, job, held, step)
    except (StoreUnavailable, LeaseLost) as error:
        # The job is still due when Redis is back, or belongs to another worker.
        logger.warning("%s: %s", job_id, error)


@contextmanager
def _started(runtime: Runtime, job_id: str) -> Iterator[Job | None]:
    """Read a job, and count the start of its step until it returns. If the step kills its worker,
    the start stays counted."""
    job = runtime.store.run(records.start(job_id))
    try:
        yield job
    finally:
        # The record of a job that this version can't read may have starts, too.
        if job is None or job.starts:
            runtime.store.run(records.forget_starts(job_id))


def _give_up_started(runtime: Runtime, source: str, job: Job) -> None:
    message = (
        f"Batchflow's {source} step was started {job.starts - 1} times and never returned: its "
        "worker died each time, probably for lack of memory. Give the workers more memory, or "
        "split the input into smaller files; the workers' logs, and those of their host, say more."
    )
    runtime.end(job.id, source, JobState.RETRYABLE, message)


def _run(runtime: Runtime, source: str, job: Job, held: Lease, step: StepFunction) -> None:
    try:
        step(runtime, job, held)
        clear_backoff(runtime, job.spec.credential)
    except (InvalidInput, OpenAIRefused) as error:
        runtime.end(job.id, source, JobState.FAILED, str(error))
    except (CredentialMissing, CredentialRefused, OpenAIUnavailable) as error:
        _wait(runtime, source, job.id, back_off(runtime, job.spec.credential, error))
    except BlobUnavailable as error:
        _retry_or_give_up(runtime, source, job, str(error))
    except (StoreUnavailable, LeaseLost):
        raise
    except Exception as error:
        logger.exception("%s: the step failed", job.id)
        message = f"Batchflow's {source} step failed with {type(error).__name__}"
        _retry_or_give_up(runtime, source, job, message)


def _wait(runtime: Runtime, source: str, job_id: str, pause: Backoff) -> None:
    runtime.postpone(job_id, source, pause.seconds_left, pause.message, pause.waiting_for)


def _retry_or_give_up(runtime: Runtime, source: str, job: Job, message: str) -> None:
    policy = runtime.policy
    failures = job.failures + 1
    if failures >= policy.max_failures:
        message = f"{message} (gave up after {failures} tries)"
        runtime.end(job.id, source, JobState.RETRYABLE, message)
        return
    runtime.update(
        job.id,
        source,
        {"message": f"{message} (try {failures} of {policy.max_failures})", "failures": failures},
        due_in_s=min(policy.longest_retry_s, policy.first_retry_s * 2**job.failures),
    )
