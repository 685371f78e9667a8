"""Commands about when workers, sweeps, polls and webhooks were last seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from batchflow.store import keys
from batchflow.store.command import Command, scored

#: A worker without a heartbeat for this long is removed, in seconds.
_FORGOTTEN_S = 86_400


@dataclass(frozen=True)
class Worker:
    """A worker process and the queues that it takes messages from, without the prefix."""

    name: str
    queues: tuple[str, ...]
    #: Its last heartbeat, epoch seconds.
    seen_s: float


def record_event(*events: str, **measured: float) -> Command[float]:
    """Record that events happened now, along with measured numbers; returns Redis' time."""
    values: dict[str, str | float] = {**dict.fromkeys(events, "now"), **measured}
    return Command("record_event", [keys.PULSE], [*chain(*values.items())], float)


def last_seen() -> Command[dict[str, float]]:
    """When each event last happened, epoch seconds, and the numbers."""
    return Command("HGETALL", [keys.PULSE], [], _numbers)


def beat(worker: str, queues: Sequence[str]) -> Command[int]:
    """Write a worker's heartbeat."""
    return Command("heartbeat", [keys.WORKERS], [_member(worker, queues), _FORGOTTEN_S], int)


def remove(worker: str, queues: Sequence[str]) -> Command[int]:
    """Remove a worker that stops."""
    return Command("ZREM", [keys.WORKERS], [_member(worker, queues)], int)


def workers() -> Command[list[Worker]]:
    """The workers with a heartbeat within a day."""
    return Command("ZRANGE", [keys.WORKERS], [0, -1, "WITHSCORES"], _workers)


def _member(worker: str, queues: Sequence[str]) -> str:
    return f"{worker} {','.join(queues)}"


def _numbers(raw: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in raw.items()}


def _workers(raw: Sequence[Any]) -> list[Worker]:
    found = []
    for member, seen_s in scored(raw):
        name, _, queues = member.rpartition(" ")
        found.append(Worker(name, tuple(queues.split(",")), seen_s))
    return sorted(found, key=lambda worker: worker.name)
