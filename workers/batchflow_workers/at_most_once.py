"""Requests that must take effect at most once, though OpenAI has no idempotency key.

A try is counted in the job's record before its request goes out. After a try whose outcome is
unknown, the next one first waits until OpenAI's lists show what was created, and searches there.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from batchflow.errors import BatchflowError, LeaseLost, OpenAIError, StoreUnavailable
from batchflow.jobs import Job
from batchflow.settings import Settings
from batchflow.store import records
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: OpenAI ends a batch within a day.
_MAX_BATCH_AGE = timedelta(days=3)
#: How long a worker keeps what it created at OpenAI while Redis is unavailable.
_KEPT_S = 900.0
#: The longest wait between two attempts to write it.
_LONGEST_RETRY_S = 5.0


def until_searchable_s(runtime: Runtime, job: Job) -> float:
    """Seconds until OpenAI's lists show what the last try created; 0 if they do."""
    return max(0.0, settled_at_s(runtime, job) - runtime.store.run(records.time()))


def settled_at_s(runtime: Runtime, job: Job) -> float:
    """When OpenAI's lists show what the last try created, epoch seconds."""
    if job.settled_at:
        return job.settled_at.timestamp()
    # The record was created with a try.
    return (job.tried_at or job.created_at).timestamp() + _settles_in_s(runtime.settings)


def search_not_before(job: Job) -> datetime:
    """The earliest time at which a try of this job may have created something."""
    # A rebuilt record shows that there was a try, but not when.
    return job.created_at if job.tried_at else job.created_at - _MAX_BATCH_AGE


def begin(runtime: Runtime, job: Job, source: str, searching: str) -> records.Try:
    """Count a try, unless the job must not continue.

    A job whose tries the store may have lost becomes due when a search can find what they created,
    with the message ``searching``.
    """
    settles_in_s = _settles_in_s(runtime.settings)
    begun = runtime.store.run(records.begin(job.id, tries=job.tries, settles_in_s=settles_in_s))
    if begun.begun is records.Begun.SEARCH:
        runtime.postpone(job.id, source, settles_in_s, searching)
    return begun


@contextmanager
def counted_try(runtime: Runtime, job: Job, begun: records.Try) -> Iterator[None]:
    """Send a request whose try has begun; undo that if the request certainly had no effect."""
    try:
        yield
    except BatchflowError as error:
        if _had_no_effect(error):
            runtime.store.run(records.take_back(job.id, begun))
        else:
            # After a timeout, the request may take effect as late as now.
            settles_in_s = runtime.settings.settle_s
            runtime.store.run(records.settle(job.id, begun, settles_in_s=settles_in_s))
        raise


def _had_no_effect(error: BatchflowError) -> bool:
    if isinstance(error, OpenAIError):
        return not error.outcome_unknown
    # It is raised before a request, or before the last piece of its body.
    return isinstance(error, LeaseLost)


def settle_later(runtime: Runtime, job: Job, begun: records.Try) -> None:
    """Postpone the search for what a try creates, just before its request takes effect."""
    settles_in_s = _settles_in_s(runtime.settings)
    runtime.store.run(records.settle(job.id, begun, settles_in_s=settles_in_s))


def until_recorded(job: Job, write: Callable[[], T]) -> T:
    """Repeat a write until Redis has it, because only this worker knows what it created."""
    gives_up_at = time.monotonic() + _KEPT_S

    def on_failure(error: Exception) -> None:
        if time.monotonic() > gives_up_at:
            raise error
        logger.warning("%s: what was created at OpenAI is not recorded yet: %s", job.id, error)

    backoff = ExponentialWithJitterBackoff(cap=_LONGEST_RETRY_S, base=0.1)
    return Retry(backoff, -1, (StoreUnavailable,)).call_with_retry(write, on_failure)


def _settles_in_s(settings: Settings) -> float:
    """How long after a request began OpenAI's lists show what it created."""
    return settings.openai_timeout_s + settings.settle_s
