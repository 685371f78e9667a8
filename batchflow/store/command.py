"""What can be done to the job store, as a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Command(Generic[T]):
    """One round trip: a Lua script of this package or a plain Redis command, by name.

    Either store carries it out: ``JobStore.run(get(job_id))`` blocks,
    ``await AsyncJobStore.run(get(job_id))`` does not.
    """

    name: str
    keys: Sequence[str]
    args: Sequence[str | int | float]
    parse: Callable[[Any], T]
    is_script: bool = False
    #: What some Redis commands want before their keys.
    options: Sequence[str | int] = ()


def scored(raw: Sequence[Any]) -> list[tuple[str, float]]:
    """Members and scores of a ZSET, from a reply to ZRANGE with WITHSCORES."""
    # RESP3 pairs members and scores up, RESP2 does not.
    pairs = (
        raw if raw and isinstance(raw[0], list | tuple) else zip(raw[::2], raw[1::2], strict=True)
    )
    return [(member, float(score)) for member, score in pairs]
