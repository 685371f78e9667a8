"""Commands of the searches through OpenAI's lists, which all jobs of an account share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchflow.store import keys
from batchflow.store.command import Command

_WAITS = "waits:"


@dataclass(frozen=True)
class Question:
    """What a job needs to know: what its tries have created at OpenAI."""

    job_id: str
    #: When a search must begin to show everything that they have created, epoch seconds.
    settled_at_s: float
    #: When they may have created something for the first time, epoch seconds.
    not_before_s: float


@dataclass(frozen=True)
class Search:
    """A search as a job sees it."""

    #: As Redis wrote it: it identifies the search.
    started_at: str
    not_before_s: float
    #: The last id that it has passed, empty if none.
    after: str
    done: bool
    #: What the job takes if there is nothing better, empty if there is nothing at all.
    fallback_id: str
    #: How many other jobs wait for it.
    waiting: int

    def answers(self, question: Question) -> bool:
        """Whether it has found everything that the job's tries have created."""
        return (
            self.done
            and float(self.started_at) >= question.settled_at_s
            and self.not_before_s <= question.not_before_s
        )

    @classmethod
    def parse(cls, raw: Sequence[Any]) -> "Search":
        """From the reply of open_search.lua, if there is a search."""
        started_at, not_before, after, done, fallback_id, waiting = raw
        return cls(
            started_at, float(not_before), after or "", bool(done), fallback_id or "", int(waiting)
        )


def wait_for(name: str, question: Question) -> Command[Search | None]:
    """Let a job wait for the search of a list; None if there is none."""
    return Command(
        "open_search",
        [keys.search(name)],
        _opening(question, leased=False),
        lambda raw: Search.parse(raw) if raw[0] else None,
    )


def begin(name: str, question: Question) -> Command[Search]:
    """Begin, extend or continue the search of a list. The caller has its lease."""
    return Command(
        "open_search", [keys.search(name)], _opening(question, leased=True), Search.parse
    )


def advance(
    name: str,
    search: Search,
    after: str,
    *,
    done: bool = False,
    served: Iterable[str] = (),
    fallbacks: Mapping[str, str] | None = None,
) -> Command[int]:
    """Record that a search has passed ``after``, which jobs it has served, and what others take if
    there is nothing better. Returns how many jobs wait, -1 if another worker has continued it."""
    served = list(served)
    pairs = [part for pair in (fallbacks or {}).items() for part in pair]
    return Command(
        "advance_search",
        [keys.search(name)],
        [
            search.started_at,
            search.after,
            after,
            int(done),
            keys.SEARCH_TTL_S,
            len(served),
            *served,
            *pairs,
        ],
        int,
    )


def leave(name: str, job_id: str) -> Command[bool]:
    """Let a job no longer wait for the search of a list."""
    return Command("HDEL", [keys.search(name)], [_WAITS + job_id], bool)


def waiting(name: str) -> Command[list[str]]:
    """The jobs that wait for the search of a list."""
    return Command(
        "HKEYS",
        [keys.search(name)],
        [],
        lambda raw: [field.removeprefix(_WAITS) for field in raw if field.startswith(_WAITS)],
    )


def forget(name: str) -> Command[bool]:
    """Forget the search of a list."""
    return Command("DEL", [keys.search(name)], [], bool)


def _opening(question: Question, *, leased: bool) -> list[str | float]:
    return [
        question.job_id,
        question.settled_at_s,
        question.not_before_s,
        int(leased),
        keys.SEARCH_TTL_S,
    ]
