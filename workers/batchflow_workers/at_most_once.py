"""Sending a request once, though its outcome may stay unknown and OpenAI has no idempotency key.

``commands.begin`` counts a try before it goes out. A later try first waits until OpenAI's lists
show what the earlier one has made, then looks there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from batchflow.errors import OpenAIError
from batchflow.jobs import Job
from batchflow.store import records
from batchflow_workers.runtime import Runtime

#: OpenAI ends a batch within a day.
_LONGEST_AT_OPENAI = timedelta(days=3)


def still_settling(runtime: Runtime, job: Job) -> float:
    """Seconds until looking is worth while; 0 when it is now."""
    tried_at = (job.tried_at or job.created_at).timestamp()
    now_s = runtime.store.run(records.time())
    return max(0.0, tried_at + runtime.settings.settle_s - now_s)


def earliest(job: Job) -> datetime:
    """Since when an earlier try may have made something."""
    # A record that was made again says that something went out, and not when.
    return job.created_at if job.tried_at else job.created_at - _LONGEST_AT_OPENAI


@contextmanager
def sending(runtime: Runtime, job: Job, source: str) -> Iterator[None]:
    """The request goes out in this block; if it is known not to have been carried out, the try
    does not count."""
    try:
        yield
    except OpenAIError as error:
        if error.outcome_unknown:
            # A timeout may be long after what it was about; from now on the lists are to show it.
            runtime.update(job.id, source, {"tried_at": runtime.store.run(records.time())})
        else:
            runtime.update(job.id, source, {"tries": job.tries or None})
        raise
