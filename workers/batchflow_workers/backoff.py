"""Backoff: a pause of all calls with a credential after a failure, shared by all workers."""

import logging

from batchflow.errors import (
    CredentialMissing,
    CredentialRefused,
    OpenAIError,
    OpenAIUnavailable,
)
from batchflow.jobs import Credential
from batchflow.openai_client.calls import NO_KEY, outcome_of
from batchflow.states import WaitingFor
from batchflow.store import backoff, metrics, records
from batchflow.store.backoff import Backoff
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)


def current_backoff(runtime: Runtime, credential: Credential) -> Backoff | None:
    """The pause that a credential is in, if it is in one."""
    now_s = runtime.store.run(records.time())
    return runtime.store.run(backoff.current(str(credential), now_s))


def back_off(runtime: Runtime, credential: Credential, error: OpenAIError) -> Backoff:
    """Start or extend the pause of a credential."""
    retry_after_s = error.retry_after_s if isinstance(error, OpenAIUnavailable) else None
    message = f"Waiting to call OpenAI again. {error}"
    needs_key = isinstance(error, CredentialMissing | CredentialRefused)
    waiting_for = WaitingFor.KEY if needs_key else None
    delay_s = runtime.store.run(
        backoff.extend(
            str(credential), message=message, retry_after_s=retry_after_s, waiting_for=waiting_for
        )
    )
    reason = NO_KEY if isinstance(error, CredentialMissing) else outcome_of(error)
    runtime.count(
        metrics.count("openai_waits", reason),
        metrics.count("openai_wait_seconds", reason, by=delay_s),
    )
    logger.warning("Credential %s is paused for %.1f s: %s", credential, delay_s, error)
    return Backoff(delay_s, message, waiting_for)


def clear_backoff(runtime: Runtime, credential: Credential) -> None:
    """Forget earlier failures, because OpenAI answered."""
    runtime.store.run(backoff.clear(str(credential)))
