"""Backoff: a pause of all calls with a credential after a failure, shared by all workers."""

import logging

from batchflow.errors import CredentialMissing, OpenAIError, OpenAIUnavailable
from batchflow.jobs import Credential
from batchflow.openai_client.calls import NO_KEY, outcome_of
from batchflow.store import backoff, metrics, records
from batchflow.store.backoff import Backoff
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)


def current_backoff(runtime: Runtime, credential: Credential) -> Backoff | None:
    """The pause that a credential is in, if it is in one."""
    now_s = runtime.store.run(records.time())
    return runtime.store.run(backoff.current(str(credential), now_s))


def back_off(runtime: Runtime, credential: Credential, error: OpenAIError) -> float:
    """Start or extend the pause of a credential; returns its length in seconds."""
    retry_after_s = error.retry_after_s if isinstance(error, OpenAIUnavailable) else None
    delay_s = runtime.store.run(
        backoff.extend(str(credential), message=backoff_message(error), retry_after_s=retry_after_s)
    )
    reason = NO_KEY if isinstance(error, CredentialMissing) else outcome_of(error)
    runtime.count(
        metrics.count("openai_waits", reason),
        metrics.count("openai_wait_seconds", reason, by=delay_s),
    )
    logger.warning("Credential %s is paused for %.1f s: %s", credential, delay_s, error)
    return delay_s


def clear_backoff(runtime: Runtime, credential: Credential) -> None:
    """Forget earlier failures, because OpenAI answered."""
    runtime.store.run(backoff.clear(str(credential)))


def backoff_message(error: Exception) -> str:
    """The message of a job that waits for the end of a pause."""
    return f"Waiting to call OpenAI again. {error}"
