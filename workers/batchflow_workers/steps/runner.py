"""What all steps about one job have in common: its record, its lease, what failures mean."""

import logging
from collections.abc import Callable

from batchflow.errors import (
    BlobUnavailable,
    CredentialMissing,
    CredentialRefused,
    InvalidInput,
    OpenAIError,
    OpenAIRefused,
    OpenAIUnavailable,
    StoreUnavailable,
)
from batchflow.jobs import Credential, Job
from batchflow.openai_client.calls import NO_KEY, outcome_of
from batchflow.states import JobState
from batchflow.store import backoff, metrics, records
from batchflow.store.backoff import Backoff
from batchflow_workers.lease import lease
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: A step that broke so often in a row, for reasons other than OpenAI, is given up.
MAX_FAILURES = 8
_FIRST_RETRY_S = 2.0
_LONGEST_RETRY_S = 300.0


def take_step(
    runtime: Runtime, source: str, job_id: str, work: Callable[[Runtime, Job], None]
) -> None:
    """Do a step of a job, unless the job has ended or somebody else is at it.

    Whatever goes wrong ends in the job's record: as its end, if trying again won't help, else as
    a message and a time to try again.
    """
    try:
        with lease(runtime.store, job_id, runtime.settings.lease_s) as ours:
            if not ours:
                logger.info("%s: another worker is at it", job_id)
                return
            job = runtime.store.run(records.get(job_id))
            if job is None or job.terminal:
                logger.info("%s: nothing to do", job_id)
                return
            if waits := backed_off(runtime, job.spec.credential):
                postpone(runtime, job_id, source, waits.seconds_left, waits.message)
                return
            _do(runtime, source, job, work)
    except StoreUnavailable as error:
        # The job is due again when Redis is back; a message is only a nudge.
        logger.warning("%s: %s", job_id, error)


def _do(runtime: Runtime, source: str, job: Job, work: Callable[[Runtime, Job], None]) -> None:
    try:
        work(runtime, job)
        runtime.store.run(backoff.clear(str(job.spec.credential)))
    except (InvalidInput, OpenAIRefused) as error:
        end(runtime, job.id, source, JobState.FAILED, str(error))
    except (CredentialMissing, CredentialRefused, OpenAIUnavailable) as error:
        delay_s = back_off(runtime, job.spec.credential, error)
        postpone(runtime, job.id, source, delay_s, waiting_for_openai(error))
    except BlobUnavailable as error:
        _failed_again(runtime, source, job, str(error))
    except StoreUnavailable:
        raise
    except Exception as error:
        logger.exception("%s: the step broke", job.id)
        message = f"Batchflow's {source} step broke: {type(error).__name__}"
        _failed_again(runtime, source, job, message)


def backed_off(runtime: Runtime, credential: Credential) -> Backoff | None:
    """Whether OpenAI is to be left alone with this credential."""
    now_s = runtime.store.run(records.time())
    return runtime.store.run(backoff.current(str(credential), now_s))


def back_off(runtime: Runtime, credential: Credential, error: OpenAIError) -> float:
    """Leave OpenAI alone with this credential, in all workers; returns for how many seconds."""
    retry_after_s = error.retry_after_s if isinstance(error, OpenAIUnavailable) else None
    delay_s = runtime.store.run(
        backoff.extend(
            str(credential), message=waiting_for_openai(error), retry_after_s=retry_after_s
        )
    )
    reason = NO_KEY if isinstance(error, CredentialMissing) else outcome_of(error)
    runtime.count(
        metrics.count("openai_waits", reason),
        metrics.count("openai_wait_seconds", reason, by=delay_s),
    )
    logger.warning("Credential %s waits %.1f s: %s", credential, delay_s, error)
    return delay_s


def waiting_for_openai(error: Exception) -> str:
    """The message of a job that waits until OpenAI can be asked again."""
    return f"Waiting to ask OpenAI again. {error}"


def postpone(runtime: Runtime, job_id: str, source: str, delay_s: float, message: str) -> None:
    """Try again later, and say why."""
    runtime.update(job_id, source, {"message": message}, due_in_s=delay_s)


def end(
    runtime: Runtime,
    job_id: str,
    source: str,
    state: JobState,
    message: str,
    **fields: str | int | None,
) -> records.Updated:
    """End a job."""
    logger.info("%s: %s. %s", job_id, state, message)
    return runtime.update(job_id, source, {**fields, "message": message}, to=state)


def _failed_again(runtime: Runtime, source: str, job: Job, message: str) -> None:
    failures = job.failures + 1
    if failures >= MAX_FAILURES:
        message = f"{message} (gave up after {failures} tries)"
        end(runtime, job.id, source, JobState.RETRYABLE, message)
        return
    delay_s = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2**job.failures)
    runtime.update(
        job.id,
        source,
        {"message": f"{message} (try {failures} of {MAX_FAILURES})", "failures": failures},
        due_in_s=delay_s,
    )
