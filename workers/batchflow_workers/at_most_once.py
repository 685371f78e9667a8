"""Requests that must take effect at most once, though OpenAI has no idempotency key.

``records.begin`` counts a try before its request goes out. After a try whose outcome is unknown,
the next one first waits until OpenAI's lists show what was created, and searches there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from batchflow.errors import OpenAIError
from batchflow.jobs import Job
from batchflow.store import records
from batchflow_workers.runtime import Runtime

#: OpenAI ends a batch within a day.
_MAX_BATCH_AGE = timedelta(days=3)


def until_searchable_s(runtime: Runtime, job: Job) -> float:
    """Seconds until OpenAI's lists show what the last try created; 0 if they do."""
    return max(0.0, settled_at_s(runtime, job) - runtime.store.run(records.time()))


def settled_at_s(runtime: Runtime, job: Job) -> float:
    """When OpenAI's lists show what the last try created, epoch seconds."""
    return (job.tried_at or job.created_at).timestamp() + runtime.settings.settle_s


def search_not_before(job: Job) -> datetime:
    """The earliest time at which a try of this job may have created something."""
    # A rebuilt record shows that there was a try, but not when.
    return job.created_at if job.tried_at else job.created_at - _MAX_BATCH_AGE


@contextmanager
def counted_try(runtime: Runtime, job: Job, source: str) -> Iterator[None]:
    """Send a request whose try was counted; undo that if the request certainly had no effect."""
    try:
        yield
    except OpenAIError as error:
        if error.outcome_unknown:
            # After a timeout, the request may take effect as late as now.
            runtime.update(job.id, source, {"tried_at": runtime.store.run(records.time())})
        else:
            runtime.update(job.id, source, {"tries": job.tries or None})
        raise
