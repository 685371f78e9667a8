"""Which jobs there are, in which order, and how many, as commands."""

from collections.abc import Mapping
from typing import NamedTuple

from batchflow import keys
from batchflow.states import JobKind, JobState
from batchflow.store.command import Command

#: Sorts after every time.
_AFTER_ALL = "~"


class Facet(str):
    """What jobs are listed under."""

    __slots__ = ()

    @classmethod
    def of(cls, *, organization: str | None = None, execution: str | None = None) -> "Facet":
        """The one that leaves fewest: an execution's name, an organization, or all there is."""
        if execution:
            return cls(f"execution={execution}")
        return cls(f"org={organization}" if organization else "all")


class Listed(NamedTuple):
    """A job's place in the index, which sorts by time: epoch seconds as Redis wrote them."""

    time: str
    job_id: str

    @classmethod
    def parse(cls, member: str) -> "Listed":
        """From a member of the index."""
        _, time_s, job_id = member.rsplit(" ", 2)
        return cls(time_s, job_id)

    def __str__(self) -> str:
        return f"{self.time} {self.job_id}"


def listed(
    facet: Facet, kind: JobKind, state: JobState, *, limit: int, before: str = ""
) -> Command[list[Listed]]:
    """Jobs in the index, newest first: the live ones by when they were made, the others by when
    they ended. ``before`` is the place of the last one of the page before."""
    prefix = f"{facet} {kind} {state} "
    return Command(
        "ZRANGE",
        [keys.INDEX],
        [f"({prefix}{before or _AFTER_ALL}", f"[{prefix}", "BYLEX", "REV", "LIMIT", 0, limit],
        lambda raw: [Listed.parse(member) for member in raw],
    )


def longest_listed(kind: JobKind, state: JobState) -> Command[Listed | None]:
    """The job that has been in a state for longest, a live one since it was made."""
    prefix = f"all {kind} {state} "
    return Command(
        "ZRANGE",
        [keys.INDEX],
        [f"[{prefix}", f"({prefix}{_AFTER_ALL}", "BYLEX", "LIMIT", 0, 1],
        lambda raw: Listed.parse(raw[0]) if raw else None,
    )


def listed_since(kind: JobKind, state: JobState, epoch_s: float) -> Command[int]:
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


def counts() -> Command[dict[tuple[JobKind, JobState], int]]:
    """How many jobs of each kind are in each state."""
    return Command("HGETALL", [keys.COUNTS], [], _counts)


def _counts(raw: Mapping[str, str]) -> dict[tuple[JobKind, JobState], int]:
    found = {}
    for name, number in raw.items():
        kind, _, state = name.partition(":")
        found[JobKind(kind), JobState(state)] = int(number)
    return found
