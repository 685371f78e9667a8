"""What jobs wait for, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from batchflow.gateway.pages.list_query import ListQuery
from batchflow.overview.formatting import between, count
from batchflow.overview.health import queues_without_worker
from batchflow.overview.summary import Summary, Wait
from batchflow.queue import QUEUE_OF, STEP_OF, Queue, Step
from batchflow.states import LIVE, JobKind, JobState


@dataclass(frozen=True)
class Blocker:
    """A reason why jobs wait."""

    what: str
    message: str
    #: The number of jobs, or the time until OpenAI is called again.
    extent: str
    href: str


def blockers(summary: Summary) -> list[Blocker]:
    """All reasons why jobs wait."""
    return [*_missing_workers(summary), *(_blocker(wait, summary.at) for wait in summary.waits)]


def _missing_workers(summary: Summary) -> Iterator[Blocker]:
    """Queues that jobs need, and that no worker takes messages from."""
    needed: dict[Queue, list[tuple[JobKind, JobState]]] = {}
    for kind, step in STEP_OF.items():
        needed.setdefault(QUEUE_OF[step], []).append((kind, JobState.QUEUED))
    needed.setdefault(QUEUE_OF[Step.POLL], []).append((JobKind.BATCH, JobState.RUNNING))
    missing = queues_without_worker(summary.workers)
    for queue, waiting in needed.items():
        jobs = sum(summary.counts[kind][state] for kind, state in waiting)
        if jobs and queue in missing:
            query = ListQuery(
                state=frozenset(state for _, state in waiting),
                kind=frozenset(kind for kind, _ in waiting),
            )
            yield Blocker(
                f"For a worker on the queue {queue}",
                "No worker is running. Start one: celery -A batchflow_workers worker",
                count(jobs, "job"),
                query.url(),
            )


def _blocker(wait: Wait, now: datetime) -> Blocker:
    credential, what = wait.what, f"For OpenAI, with {wait.what}"
    if wait.reason == "capacity":
        credential, _, model = wait.what.rpartition("|")
        what = f"For quota at OpenAI, {model or 'any model'} with {credential}"
    extent = count(wait.jobs, "job") if wait.jobs is not None else ""
    if wait.until:
        extent = f"called again in {between(now, wait.until)}"
    return Blocker(what, wait.message, extent, ListQuery(state=LIVE, text=credential).url())
