"""When workers, sweeps, polls and webhooks were last seen, as commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchflow.store import keys
from batchflow.store.command import Command, scored

#: A worker that was silent for so long is forgotten, in seconds.
_FORGOTTEN_S = 86_400
#: One that was silent for so long is taken for dead; it beats every ten seconds.
_DEAD_S = 60.0


@dataclass(frozen=True)
class Worker:
    """A worker process and the queues that it takes messages from, without the prefix."""

    name: str
    queues: tuple[str, ...]
    #: Its last heartbeat, epoch seconds.
    seen_s: float

    def lives(self, now_s: float) -> bool:
        """Whether it was heard of lately, at Redis' time ``now_s``."""
        return now_s - self.seen_s < _DEAD_S


def record_event(*happened: str, **measured: float) -> Command[float]:
    """Note that something happened now, and numbers that go with it; answers Redis' time."""
    values: list[str | float] = []
    for name in happened:
        values += [name, "now"]
    for name, value in measured.items():
        values += [name, value]
    return Command("note", [keys.PULSE], values, float, is_script=True)


def last_seen() -> Command[dict[str, float]]:
    """When what was noted happened last, epoch seconds, and the numbers."""
    return Command("HGETALL", [keys.PULSE], [], _numbers)


def beat(worker: str, queues: Sequence[str]) -> Command[int]:
    """A worker's heartbeat."""
    return Command(
        "alive", [keys.WORKERS], [_member(worker, queues), _FORGOTTEN_S], int, is_script=True
    )


def remove(worker: str, queues: Sequence[str]) -> Command[int]:
    """A worker ends."""
    return Command("ZREM", [keys.WORKERS], [_member(worker, queues)], int)


def workers() -> Command[list[Worker]]:
    """The workers that were heard of in the last day."""
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
