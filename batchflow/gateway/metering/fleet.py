"""What the processes of the fleet have told Redis, read for ``/metrics`` in two round trips."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from batchflow.states import LIVE, JobKind, JobState
from batchflow.store import (
    AsyncJobStore,
    backoff,
    heartbeats,
    index,
    metrics,
    quota_queues,
    records,
)
from batchflow.store.command import Command


@dataclass(frozen=True)
class Fleet:
    """The fleet at a moment. Ages and lags are in seconds, by Redis' clock."""

    jobs: Mapping[tuple[JobKind, JobState], int]
    counters: Mapping[tuple[str, ...], float]
    #: ``poll``, ``sweep``, ``webhook`` -> how long ago; what never happened is not there.
    ages_s: Mapping[str, float]
    #: How long ago the oldest live job of a kind was made.
    oldest_s: Mapping[JobKind, float]
    #: How long the job that is most overdue has been due.
    due_lag_s: float
    #: Queue, without the prefix -> workers that take from it and are alive.
    workers: Mapping[str, int]
    #: Credentials that nobody asks OpenAI with now, and for how long.
    backoffs_s: Mapping[str, float]
    #: ``<credential>|<model>`` -> jobs that wait for capacity.
    lines: Mapping[str, int]


async def read_fleet(store: AsyncJobStore) -> Fleet:
    """Read what there is; raises StoreUnavailable."""
    live = sorted(product(JobKind, LIVE))
    first: list[Command[Any]] = [
        records.time(),
        index.counts(),
        metrics.counters(),
        heartbeats.last_seen(),
        heartbeats.workers(),
        index.first_due(),
        index.credentials(),
        quota_queues.names(),
        *(index.oldest_entry(kind, state) for kind, state in live),
    ]
    found = await store.run_all(first)
    now_s, jobs, counters, pulse, workers, due_s, credentials, waiting, *oldest = found
    backoffs: list[Command[Any]] = [backoff.current(name, now_s) for name in credentials]
    lengths: list[Command[Any]] = [quota_queues.length(line) for line in waiting]
    answers = await store.run_all([*backoffs, *lengths])
    oldest_s: dict[JobKind, float] = {}
    for (kind, _), listed in zip(live, oldest, strict=True):
        if listed:
            age_s = _since(now_s, float(listed.time))
            oldest_s[kind] = max(age_s, oldest_s.get(kind, 0.0))
    return Fleet(
        jobs=jobs,
        counters=counters,
        ages_s={what: _since(now_s, when_s) for what, when_s in pulse.items()},
        oldest_s=oldest_s,
        due_lag_s=0.0 if due_s is None else _since(now_s, due_s),
        workers=Counter(
            queue for worker in workers if worker.lives(now_s) for queue in worker.queues
        ),
        backoffs_s={
            name: wait.seconds_left
            for name, wait in zip(credentials, answers, strict=False)
            if wait
        },
        lines=dict(zip(waiting, answers[len(backoffs) :], strict=True)),
    )


def _since(now_s: float, then_s: float) -> float:
    return max(0.0, now_s - then_s)
