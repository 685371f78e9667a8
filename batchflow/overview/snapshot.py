"""How the fleet is doing, in numbers."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

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

#: What people take for a failure: nobody wanted it.
BAD = (JobState.FAILED, JobState.RETRYABLE)

_HOUR_S = 3_600


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Wait(_Frozen):
    """Something that jobs wait for."""

    #: ``openai``: a credential is backed off; ``capacity``: OpenAI's limit of enqueued tokens.
    reason: str
    #: The credential, for ``capacity`` with the model behind ``|``.
    what: str
    #: How many jobs wait; None where that isn't counted.
    jobs: int | None
    message: str
    #: When OpenAI is asked again.
    until: datetime | None


class Summary(_Frozen):
    """The fleet at a moment, by Redis' clock."""

    at: datetime
    counts: dict[JobKind, dict[JobState, int]]
    #: Jobs that are at OpenAI or under way, and those that wait to be.
    running: int
    queued: int
    waits: tuple[Wait, ...]
    succeeded_last_hour: int
    #: Failed and given up; not those that somebody cancelled.
    failed_last_hour: int
    #: What OpenAI has counted in batches that have ended, since ``since``.
    input_tokens: int
    output_tokens: int
    since: datetime | None
    #: The batch that has gone without its result for longest, and since when.
    oldest_batch: str | None
    oldest_batch_since: datetime | None
    #: When OpenAI last answered a poll, when a sweep last ran, when a webhook last came.
    polled_at: datetime | None
    swept_at: datetime | None
    webhook_at: datetime | None
    #: Queue, without the prefix -> workers that take from it and are alive.
    workers: dict[str, int]


async def summarize(store: AsyncJobStore) -> Summary:
    """Look at the fleet; a few round trips, however many jobs there are."""
    now_s = await store.run(records.time())
    counts = await store.run(index.counts())
    pulse = await store.run(heartbeats.last_seen())
    counters = await store.run(metrics.counters())
    born_s = await store.run(index.recording_since())
    oldest = await _oldest_batch(store)
    by_state = {state: sum(counts.get((kind, state), 0) for kind in JobKind) for state in JobState}
    return Summary(
        at=_moment(now_s),
        counts={
            kind: {state: counts.get((kind, state), 0) for state in JobState} for kind in JobKind
        },
        running=by_state[JobState.RUNNING],
        queued=by_state[JobState.QUEUED],
        waits=(*await _backed_off(store, now_s), *await _lines(store)),
        succeeded_last_hour=await _ended(store, now_s - _HOUR_S, JobState.SUCCEEDED),
        failed_last_hour=await _ended(store, now_s - _HOUR_S, *BAD),
        input_tokens=int(counters.get(("tokens", "input"), 0)),
        output_tokens=int(counters.get(("tokens", "output"), 0)),
        since=_moment(born_s) if born_s else None,
        oldest_batch=oldest.job_id if oldest else None,
        oldest_batch_since=_moment(float(oldest.time)) if oldest else None,
        polled_at=_last(pulse, "poll"),
        swept_at=_last(pulse, "sweep"),
        webhook_at=_last(pulse, "webhook"),
        workers=await _workers(store, now_s),
    )


async def _oldest_batch(store: AsyncJobStore) -> index.IndexEntry | None:
    first = await store.run_all(
        [index.oldest_entry(JobKind.BATCH, state) for state in sorted(LIVE)]
    )
    return min((listed for listed in first if listed), default=None)


async def _backed_off(store: AsyncJobStore, now_s: float) -> list[Wait]:
    credentials = await store.run(index.credentials())
    names = sorted(credentials)
    ask: list[Command[Backoff | None]] = [backoff.current(name, now_s) for name in names]
    return [
        Wait(
            reason="openai",
            what=name,
            jobs=None,
            message=wait.message,
            until=_moment(now_s + wait.seconds_left),
        )
        for name, wait in zip(names, await store.run_all(ask), strict=True)
        if wait
    ]


async def _lines(store: AsyncJobStore) -> list[Wait]:
    names = await store.run(quota_queues.names())
    lengths = await store.run_all([quota_queues.length(name) for name in names])
    return [
        Wait(
            reason="capacity",
            what=name,
            jobs=length,
            message="OpenAI's limit of enqueued tokens is reached",
            until=None,
        )
        for name, length in zip(names, lengths, strict=True)
        if length
    ]


async def _ended(store: AsyncJobStore, since_s: float, *states: JobState) -> int:
    return sum(
        await store.run_all(
            [index.count_since(kind, state, since_s) for kind in JobKind for state in states]
        )
    )


async def _workers(store: AsyncJobStore, now_s: float) -> dict[str, int]:
    found: dict[str, int] = {}
    for worker in await store.run(heartbeats.workers()):
        if worker.lives(now_s):
            for queue in worker.queues:
                found[queue] = found.get(queue, 0) + 1
    return found


def _last(pulse: dict[str, float], what: str) -> datetime | None:
    return _moment(pulse[what]) if what in pulse else None


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)
