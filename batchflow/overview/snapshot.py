"""The fleet at a moment: everything that Redis knows of it, read in two round trips."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from batchflow.overview.health import UNCOLLECTED_S, worker_is_alive
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
from batchflow.store.backoff import Backoff
from batchflow.store.command import Command
from batchflow.store.heartbeats import Worker
from batchflow.store.index import IndexEntry

#: For how long ended jobs are counted in ``ended_recently``.
RECENT_S = 3_600


@dataclass(frozen=True)
class FleetSnapshot:
    """The fleet at a moment. All times are Redis', in epoch seconds."""

    now_s: float
    jobs: Mapping[tuple[JobKind, JobState], int]
    #: Name and labels -> value.
    counters: Mapping[tuple[str, ...], float]
    #: ``poll``, ``sweep``, ``webhook`` -> when it last happened; absent if it never did.
    last_seen_s: Mapping[str, float]
    #: When Redis recorded its first job.
    recording_since_s: float | None
    #: The oldest live job of a kind, and when it was created.
    oldest_live: Mapping[JobKind, IndexEntry]
    #: When the most overdue job became due; in the future if no job is due.
    first_due_s: float | None
    #: Jobs that have a due time, as every live job should.
    due_times: int
    #: Those with a recent heartbeat.
    live_workers: Sequence[Worker]
    #: Credential -> the pause of its calls.
    backoffs: Mapping[str, Backoff]
    #: ``<credential>|<model>`` -> jobs that wait for quota.
    quota_queues: Mapping[str, int]
    #: Jobs that ended within RECENT_S, by state.
    ended_recently: Mapping[JobState, int]
    #: Jobs that ended more than UNCOLLECTED_S ago and whose end Flyte has not received.
    uncollected: int
    #: The job that has waited longest for Flyte.
    oldest_uncollected: str | None
    #: Live jobs whose record the workers' version can't read.
    unreadable: int

    def age_s(self, then_s: float) -> float:
        """Seconds since then; clocks that disagree give no negative age."""
        return max(0.0, self.now_s - then_s)

    def count(self, *states: JobState) -> int:
        """The jobs of all kinds in these states."""
        return sum(self.jobs.get(key, 0) for key in product(JobKind, states))

    @property
    def workers(self) -> Mapping[str, int]:
        """Queue, without the prefix -> live workers that take messages from it."""
        return Counter(queue for worker in self.live_workers for queue in worker.queues)

    @property
    def due_lag_s(self) -> float:
        """How long the most overdue job has been due."""
        return 0.0 if self.first_due_s is None else self.age_s(self.first_due_s)


async def read_snapshot(store: AsyncJobStore) -> FleetSnapshot:
    """Read the fleet; raises StoreUnavailable."""
    live = sorted(product(JobKind, LIVE))
    first: list[Command[Any]] = [
        records.time(),
        index.counts(),
        metrics.counters(),
        heartbeats.last_seen(),
        index.recording_since(),
        heartbeats.workers(),
        index.first_due(),
        index.credentials(),
        quota_queues.names(),
        index.uncollected(1),
        index.due_times(),
        index.unreadable(),
        *(index.oldest_entry(kind, state) for kind, state in live),
    ]
    replies = await store.run_all(first)
    now_s, jobs, counters, last_seen_s, since_s, workers, due_s, *replies = replies
    credentials, queues, uncollected, due_times, unreadable, *oldest = replies
    ended = list(product(JobKind, sorted(set(JobState) - LIVE)))
    second: list[Command[Any]] = [
        index.uncollected_since(now_s - UNCOLLECTED_S),
        *(backoff.current(name, now_s) for name in credentials),
        *(quota_queues.length(name) for name in queues),
        *(index.count_since(kind, state, now_s - RECENT_S) for kind, state in ended),
    ]
    answers = iter(await store.run_all(second))
    oldest_live: dict[JobKind, IndexEntry] = {}
    for (kind, _), entry in zip(live, oldest, strict=True):
        if entry:
            oldest_live[kind] = min(entry, oldest_live.get(kind, entry))
    long_uncollected = next(answers)
    backoffs = {name: next(answers) for name in credentials}
    lengths = {name: next(answers) for name in queues}
    ended_recently: Counter[JobState] = Counter()
    for _, state in ended:
        ended_recently[state] += next(answers)
    return FleetSnapshot(
        now_s=now_s,
        jobs=jobs,
        counters=counters,
        last_seen_s=last_seen_s,
        recording_since_s=since_s,
        oldest_live=oldest_live,
        first_due_s=due_s,
        due_times=due_times,
        live_workers=[worker for worker in workers if worker_is_alive(worker.seen_s, now_s)],
        backoffs={name: pause for name, pause in sorted(backoffs.items()) if pause},
        quota_queues=lengths,
        ended_recently=ended_recently,
        uncollected=long_uncollected,
        oldest_uncollected=uncollected[0] if uncollected else None,
        unreadable=unreadable,
    )
