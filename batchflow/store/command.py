"""A command for the job store, as a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Command(Generic[T]):
    """A command with its arguments: of Redis, or one of this package's Lua commands.

    ``JobStore.run(get(job_id))`` blocks; ``await AsyncJobStore.run(get(job_id))`` does not.
    """

    #: A Lua command by the name of its file, which is in lower case; or Redis' name.
    name: str
    keys: Sequence[str]
    args: Sequence[str | int | float]
    #: Turns Redis' reply into a value.
    parse: Callable[[Any], T]
    #: Arguments before the keys, for the Redis commands that have them.
    options: Sequence[str | int] = ()


def scored(raw: Sequence[Any]) -> list[tuple[str, float]]:
    """Members and scores of a ZSET, from a reply to ZRANGE with WITHSCORES."""
    # RESP3 pairs them up; RESP2 does not.
    pairs = (
        raw if raw and isinstance(raw[0], list | tuple) else zip(raw[::2], raw[1::2], strict=True)
    )
    return [(member, float(score)) for member, score in pairs]
