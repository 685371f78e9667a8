"""Commands that list and count jobs."""

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from batchflow.jobs import Credential
from batchflow.states import JobKind, JobState
from batchflow.store import keys
from batchflow.store.command import Command, scored

#: Sorts after every time.
_AFTER_ALL = "~"


class IndexScope(str):
    """What the jobs of a part of the index have in common."""

    __slots__ = ()

    @classmethod
    def of(cls, *, organization: str | None = None, execution: str | None = None) -> "IndexScope":
        """The narrowest scope: an execution's name, an organization, or all jobs."""
        if execution:
            return cls(f"execution={execution}")
        return cls(f"org={organization}" if organization else "all")


class IndexEntry(NamedTuple):
    """A job's entry in the index, which sorts by time: epoch seconds as Redis wrote them."""

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
    scope: IndexScope, kind: JobKind, state: JobState, *, limit: int, before: str = ""
) -> Command[list[IndexEntry]]:
    """Entries of the index, newest first: live jobs by creation, others by their end. ``before`` is
    the last entry of the previous page."""
    prefix = f"{scope} {kind} {state} "
    return Command(
        "ZRANGE",
        [keys.INDEX],
        [f"({prefix}{before or _AFTER_ALL}", f"[{prefix}", "BYLEX", "REV", "LIMIT", 0, limit],
        lambda raw: [IndexEntry.parse(member) for member in raw],
    )


def uncollected_since(epoch_s: float) -> Command[int]:
    """The number of jobs that had ended by then and whose end Flyte has not received."""
    return Command("ZCOUNT", [keys.UNCOLLECTED], ["-inf", epoch_s], int)


def uncollected_end(job_id: str) -> Command[float | None]:
    """When a job ended whose end Flyte has not received; None if Flyte is not awaited."""
    return Command("ZSCORE", [keys.UNCOLLECTED], [job_id], lambda raw: float(raw) if raw else None)


def uncollected(limit: int) -> Command[list[str]]:
    """The ids of the jobs that have waited longest for Flyte, oldest first."""
    return Command("ZRANGE", [keys.UNCOLLECTED], [0, limit - 1], list)


def later_generations(cursor: str = "0") -> Command[tuple[str, list[str]]]:
    """The next cursor, "0" after the last part, and the live jobs in a part of the store that are a
    later generation."""
    return Command(
        "ZSCAN",
        [keys.DUE],
        [cursor, "MATCH", "bf-*-*", "COUNT", 1_000],
        lambda raw: (str(raw[0]), [job_id for job_id, _ in scored(raw[1])]),
    )


def unreadable() -> Command[int]:
    """The number of live jobs whose record the workers' version can't read."""
    return Command("SCARD", [keys.UNREADABLE], [], int)


def oldest_entry(kind: JobKind, state: JobState) -> Command[IndexEntry | None]:
    """The oldest entry of a kind and state."""
    prefix = f"all {kind} {state} "
    return Command(
        "ZRANGE",
        [keys.INDEX],
        [f"[{prefix}", f"({prefix}{_AFTER_ALL}", "BYLEX", "LIMIT", 0, 1],
        lambda raw: IndexEntry.parse(raw[0]) if raw else None,
    )


def count_since(kind: JobKind, state: JobState, epoch_s: float) -> Command[int]:
    """The number of jobs that ended in this state since then."""
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
    """The number of jobs of each kind in each state."""
    return Command("HGETALL", [keys.COUNTS], [], _counts)


def first_due() -> Command[float | None]:
    """When the most overdue job became due, epoch seconds: in the future if no job is due; None if
    no job is live."""
    return Command(
        "ZRANGE",
        [keys.DUE],
        [0, 0, "WITHSCORES"],
        lambda raw: next((score for _, score in scored(raw)), None),
    )


def due_times() -> Command[int]:
    """The number of jobs that have a due time."""
    return Command("ZCARD", [keys.DUE], [], int)


def credentials() -> Command[dict[str, Credential]]:
    """Every credential that a job has named."""
    return Command(
        "HGETALL",
        [keys.CREDENTIALS],
        [],
        lambda raw: {name: Credential.model_validate_json(text) for name, text in raw.items()},
    )


def recording_since() -> Command[float | None]:
    """When the first job was recorded, epoch seconds."""
    return Command("GET", [keys.BORN], [], lambda raw: float(raw) if raw else None)


def _counts(raw: Mapping[str, str]) -> dict[tuple[JobKind, JobState], int]:
    found = {}
    for name, number in raw.items():
        kind, _, state = name.partition(":")
        # Another version may have other kinds and states.
        with suppress(ValueError):
            found[JobKind(kind), JobState(state)] = int(number)
    return found
