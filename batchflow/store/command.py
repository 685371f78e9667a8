"""A command for the job store, as a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Command(Generic[T]):
    """A Lua script of this package or a plain Redis command, with its arguments.

    ``JobStore.run(get(job_id))`` blocks; ``await AsyncJobStore.run(get(job_id))`` does not.
    """

    name: str
    keys: Sequence[str]
    args: Sequence[str | int | float]
    #: Turns Redis' reply into a value.
    parse: Callable[[Any], T]
    is_script: bool = False
    #: Arguments before the keys, for the Redis commands that have them.
    options: Sequence[str | int] = ()


def scored(raw: Sequence[Any]) -> list[tuple[str, float]]:
    """Members and scores of a ZSET, from a reply to ZRANGE with WITHSCORES."""
    # RESP3 pairs them up; RESP2 does not.
    pairs = (
        raw if raw and isinstance(raw[0], list | tuple) else zip(raw[::2], raw[1::2], strict=True)
    )
    return [(member, float(score)) for member, score in pairs]
