"""What jobs wait for, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from batchflow.gateway.pages.display import between, count
from batchflow.gateway.pages.query import JobsQuery
from batchflow.overview.snapshot import Summary, Wait
from batchflow.queue import QUEUE_OF, STEP_OF, Queue, Step
from batchflow.states import LIVE, JobKind, JobState

_JOBS: Final = ("job", "jobs")


@dataclass(frozen=True)
class Blocker:
    """A reason why jobs wait."""

    what: str
    message: str
    #: How many jobs, or how long.
    how: str
    href: str


def blockers(summary: Summary) -> list[Blocker]:
    """What jobs wait for."""
    return [*_without_worker(summary), *(_blocker(wait, summary.at) for wait in summary.waits)]


def _without_worker(summary: Summary) -> Iterator[Blocker]:
    """Queues that jobs need, and that nobody takes from."""
    needed: dict[Queue, list[tuple[JobKind, JobState]]] = {}
    for kind, step in STEP_OF.items():
        needed.setdefault(QUEUE_OF[step], []).append((kind, JobState.QUEUED))
    needed.setdefault(QUEUE_OF[Step.POLL], []).append((JobKind.BATCH, JobState.RUNNING))
    for queue, whose in needed.items():
        jobs = sum(summary.counts[kind][state] for kind, state in whose)
        if jobs and not summary.workers.get(queue):
            wanted = JobsQuery(
                state=frozenset(state for _, state in whose),
                kind=frozenset(kind for kind, _ in whose),
            )
            yield Blocker(
                f"For a worker on the queue {queue}",
                "None is alive. Start one: celery -A batchflow_workers worker",
                count(jobs, *_JOBS),
                wanted.address(),
            )


def _blocker(wait: Wait, now: datetime) -> Blocker:
    credential, what = wait.what, f"For OpenAI, with {wait.what}"
    if wait.reason == "capacity":
        credential, _, model = wait.what.rpartition("|")
        what = f"For capacity at OpenAI, {model or 'any model'} with {credential}"
    how = count(wait.jobs, *_JOBS) if wait.jobs is not None else ""
    if wait.until:
        how = f"asked again in {between(now, wait.until)}"
    return Blocker(what, wait.message, how, JobsQuery(state=LIVE, text=credential).address())
