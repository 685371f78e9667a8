"""Find live jobs that have lost their due time, which no sweep would look at again."""

import logging
from collections.abc import Iterator
from itertools import product

from batchflow.states import LIVE, JobKind
from batchflow.store import heartbeats, index, metrics, records
from batchflow.store.index import IndexScope
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: The name of the check in Redis, where all workers see when it was last made.
_EVENT = "due_check"


def check_due_times(runtime: Runtime, now_s: float) -> None:
    """Make the live jobs without a due time due, unless a worker has looked for them recently."""
    checked_s = runtime.store.run(heartbeats.last_seen()).get(_EVENT)
    if checked_s is not None and now_s - checked_s < runtime.policy.due_check_interval_s:
        return
    restored = sum(_restore(runtime, job_ids) for job_ids in _live_jobs(runtime))
    if restored:
        runtime.count(metrics.count("due_times_restored", by=restored))
    runtime.store.run(heartbeats.record_event(_EVENT))


def _live_jobs(runtime: Runtime) -> Iterator[list[str]]:
    """The ids of all live jobs in the index, in parts that do not delay other clients of Redis."""
    limit = runtime.policy.checked_jobs
    for kind, state in product(JobKind, sorted(LIVE)):
        before = ""
        while found := runtime.store.run(
            index.entries(IndexScope.of(), kind, state, limit=limit, before=before)
        ):
            yield [entry.job_id for entry in found]
            if len(found) < limit:
                break
            before = str(found[-1])


def _restore(runtime: Runtime, job_ids: list[str]) -> int:
    has_due_time = runtime.store.run(records.live(job_ids))
    lost = [job_id for job_id, has in zip(job_ids, has_due_time, strict=True) if not has]
    restored = (
        runtime.store.run_all([records.restore_due(job_id) for job_id in lost]) if lost else []
    )
    for job_id, was_lost in zip(lost, restored, strict=True):
        if was_lost:
            logger.warning("%s: the job had no due time, and is due now", job_id)
    return sum(restored)
