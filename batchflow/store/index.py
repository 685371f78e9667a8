"""Which jobs there are, in which order, and how many, as commands."""

from collections.abc import Mapping
from typing import NamedTuple

from batchflow.jobs import Credential
from batchflow.states import JobKind, JobState
from batchflow.store import keys
from batchflow.store.command import Command, scored

#: Sorts after every time.
_AFTER_ALL = "~"


class IndexScope(str):
    """What jobs are listed under."""

    __slots__ = ()

    @classmethod
    def of(cls, *, organization: str | None = None, execution: str | None = None) -> "IndexScope":
        """The one that leaves fewest: an execution's name, an organization, or all there is."""
        if execution:
            return cls(f"execution={execution}")
        return cls(f"org={organization}" if organization else "all")


class IndexEntry(NamedTuple):
    """A job's place in the index, which sorts by time: epoch seconds as Redis wrote them."""

    time: str
    job_id: str

    @classmethod
    def parse(cls, member: str) -> "IndexEntry":
        """From a member of the index."""
        _, time_s, job_id = member.rsplit(" ", 2)
        return cls(time_s, job_id)

    def __str__(self) -> str:
        return f"{self.time} {self.job_id}"


def entries(
    facet: IndexScope, kind: JobKind, state: JobState, *, limit: int, before: str = ""
) -> Command[list[IndexEntry]]:
    """Jobs in the index, newest first: the live ones by when they were made, the others by when
    they ended. ``before`` is the place of the last one of the page before."""
    prefix = f"{facet} {kind} {state} "
    return Command(
        "ZRANGE",
        [keys.INDEX],
        [f"({prefix}{before or _AFTER_ALL}", f"[{prefix}", "BYLEX", "REV", "LIMIT", 0, limit],
        lambda raw: [IndexEntry.parse(member) for member in raw],
    )


def oldest_entry(kind: JobKind, state: JobState) -> Command[IndexEntry | None]:
    """The job that has been in a state for longest, a live one since it was made."""
    prefix = f"all {kind} {state} "
    return Command(
        "ZRANGE",
        [keys.INDEX],
        [f"[{prefix}", f"({prefix}{_AFTER_ALL}", "BYLEX", "LIMIT", 0, 1],
        lambda raw: IndexEntry.parse(raw[0]) if raw else None,
    )


def count_since(kind: JobKind, state: JobState, epoch_s: float) -> Command[int]:
    """How many jobs ended in this state since then."""
    prefix = f"all {kind} {state} "
    return Command(
        "ZLEXCOUNT", [keys.INDEX], [f"[{prefix}{epoch_s:.6f}", f"({prefix}{_AFTER_ALL}"], int
    )


def recent(limit: int, *, offset: int = 0) -> Command[list[str]]:
    """The ids of the jobs that changed last, newest first."""
    return Command("ZRANGE", [keys.RECENT], [offset, offset + limit - 1, "REV"], list)


def unchanged_since(epoch_s: float, limit: int, *, offset: int = 0) -> Command[list[str]]:
    """The ids of jobs that have not changed since then, oldest first."""
    return Command(
        "ZRANGE", [keys.RECENT], ["-inf", epoch_s, "BYSCORE", "LIMIT", offset, limit], list
    )


def first_due() -> Command[float | None]:
    """Since when, epoch seconds, the job is due that has been due for longest; in the future if
    none is; None if no job is live."""
    return Command(
        "ZRANGE",
        [keys.DUE],
        [0, 0, "WITHSCORES"],
        lambda raw: next((score for _, score in scored(raw)), None),
    )


def credentials() -> Command[dict[str, Credential]]:
    """Every credential that a job has named."""
    return Command(
        "HGETALL",
        [keys.CREDENTIALS],
        [],
        lambda raw: {name: Credential.model_validate_json(text) for name, text in raw.items()},
    )


def recording_since() -> Command[float | None]:
    """Since when there are jobs, epoch seconds."""
    return Command("GET", [keys.BORN], [], lambda raw: float(raw) if raw else None)


def counts() -> Command[dict[tuple[JobKind, JobState], int]]:
    """How many jobs of each kind are in each state."""
    return Command("HGETALL", [keys.COUNTS], [], _counts)


def _counts(raw: Mapping[str, str]) -> dict[tuple[JobKind, JobState], int]:
    found = {}
    for name, number in raw.items():
        kind, _, state = name.partition(":")
        found[JobKind(kind), JobState(state)] = int(number)
    return found
