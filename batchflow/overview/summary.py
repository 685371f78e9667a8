"""The fleet in numbers, as the API, the status page and the command line show it."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from batchflow.overview.snapshot import FleetSnapshot, read_snapshot
from batchflow.states import JobKind, JobState
from batchflow.store import AsyncJobStore

#: The states that count as failures; cancellation does not.
FAILURES = (JobState.FAILED, JobState.RETRYABLE)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Wait(_Frozen):
    """Something that jobs wait for."""

    #: ``openai``: calls with a credential are paused. ``capacity``: the limit of enqueued tokens.
    reason: Literal["openai", "capacity"]
    #: The credential, for ``capacity`` followed by ``|`` and the model.
    what: str
    #: The number of jobs that wait; None where they are not counted.
    jobs: int | None
    message: str
    #: When OpenAI is called again.
    until: datetime | None


class Summary(_Frozen):
    """The fleet at a moment, by Redis' clock."""

    at: datetime
    counts: dict[JobKind, dict[JobState, int]]
    #: Jobs in the states ``running`` and ``queued``.
    running: int
    queued: int
    waits: tuple[Wait, ...]
    succeeded_last_hour: int
    #: Without the jobs that were cancelled.
    failed_last_hour: int
    #: Tokens that OpenAI counted in batches that have ended, since ``since``.
    input_tokens: int
    output_tokens: int
    since: datetime | None
    #: Jobs that ended more than ten minutes ago and whose end Flyte has not received.
    uncollected: int
    #: The job that has waited longest for Flyte.
    oldest_uncollected: str | None
    #: Live jobs whose record the workers' version can't read.
    unreadable: int
    #: The live batch that was created first.
    oldest_batch: str | None
    oldest_batch_since: datetime | None
    #: When OpenAI last answered a poll, when a sweep last ran, when a webhook last arrived.
    polled_at: datetime | None
    swept_at: datetime | None
    webhook_at: datetime | None
    #: Queue, without the prefix -> live workers that take messages from it.
    workers: dict[str, int]

    @classmethod
    def of(cls, fleet: FleetSnapshot) -> "Summary":
        """The summary of a snapshot."""
        oldest = fleet.oldest_live.get(JobKind.BATCH)
        return cls(
            at=datetime.fromtimestamp(fleet.now_s, UTC),
            counts={
                kind: {state: fleet.jobs.get((kind, state), 0) for state in JobState}
                for kind in JobKind
            },
            running=fleet.count(JobState.RUNNING),
            queued=fleet.count(JobState.QUEUED),
            waits=_waits(fleet),
            succeeded_last_hour=fleet.ended_recently.get(JobState.SUCCEEDED, 0),
            failed_last_hour=sum(fleet.ended_recently.get(state, 0) for state in FAILURES),
            input_tokens=int(fleet.counters.get(("tokens", "input"), 0)),
            output_tokens=int(fleet.counters.get(("tokens", "output"), 0)),
            since=_time(fleet.recording_since_s),
            uncollected=fleet.uncollected,
            oldest_uncollected=fleet.oldest_uncollected,
            unreadable=fleet.unreadable,
            oldest_batch=oldest.job_id if oldest else None,
            oldest_batch_since=_time(float(oldest.time)) if oldest else None,
            polled_at=_time(fleet.last_seen_s.get("poll")),
            swept_at=_time(fleet.last_seen_s.get("sweep")),
            webhook_at=_time(fleet.last_seen_s.get("webhook")),
            workers=dict(fleet.workers),
        )

    @property
    def unpolled_s(self) -> float | None:
        """How long OpenAI has not answered a poll while a batch was running, in seconds; None if no
        batch is running."""
        if not self.counts[JobKind.BATCH][JobState.RUNNING]:
            return None
        return self.age_s(
            max(filter(None, (self.polled_at, self.oldest_batch_since)), default=None)
        )

    def age_s(self, moment: datetime | None) -> float | None:
        """Seconds from a moment until the summary was taken; None for None."""
        return None if moment is None else (self.at - moment).total_seconds()


async def summarize(store: AsyncJobStore) -> Summary:
    """Read the fleet and summarize it; raises StoreUnavailable."""
    return Summary.of(await read_snapshot(store))


def _waits(fleet: FleetSnapshot) -> tuple[Wait, ...]:
    paused = (
        Wait(
            reason="openai",
            what=credential,
            jobs=None,
            message=pause.message,
            until=_time(fleet.now_s + pause.seconds_left),
        )
        for credential, pause in fleet.backoffs.items()
    )
    over_quota = (
        Wait(
            reason="capacity",
            what=queue,
            jobs=length,
            message="OpenAI's limit of enqueued tokens is reached",
            until=None,
        )
        for queue, length in fleet.quota_queues.items()
        if length
    )
    return (*paused, *over_quota)


def _time(epoch_s: float | None) -> datetime | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)
