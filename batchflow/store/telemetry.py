"""What the processes tell of themselves, as commands: counters, heartbeats, deliveries.

Every process counts in Redis, so that one place knows the whole fleet. Nothing here decides
anything about a job.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchflow import keys
from batchflow.jobs import Credential
from batchflow.store.command import Command

#: The upper bounds of each histogram's buckets but the last, which has none, in seconds.
BOUNDS_S: Mapping[str, tuple[float, ...]] = {
    # From a batch's end at OpenAI to our knowing it; labels: who saw it.
    "knowing": (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600),
    # One sweep.
    "sweep": (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    # One request to OpenAI, a transfer of a file included; labels: the operation.
    "openai_call": (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
}
#: The end of the fields in which a histogram stands.
BUCKET = "_bucket"
SUM = "_sum"

#: A worker that was silent for so long is forgotten, in seconds.
_FORGOTTEN_S = 86_400
#: One that was silent for so long is taken for dead; it beats every ten seconds.
_DEAD_S = 60.0
_SEPARATOR = "|"


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


def count(name: str, *labels: str, by: float = 1) -> Command[float]:
    """Add to a counter."""
    return Command("HINCRBYFLOAT", [keys.METRICS], [_field(name, labels), by], float)


def observation(name: str, seconds: float, *labels: str) -> list[Command[float]]:
    """Add to a histogram of BOUNDS_S: one to the bucket that the seconds fall into, and the
    seconds to their sum. Buckets are not cumulative; a clock that runs behind gives no time
    below zero."""
    seconds = max(0.0, seconds)
    bounds_s = (*BOUNDS_S[name], math.inf)
    bound_s = bounds_s[bisect_left(bounds_s, seconds)]
    return [
        count(name + BUCKET, *labels, f"{bound_s:g}"),
        count(name + SUM, *labels, by=seconds),
    ]


def counters() -> Command[dict[tuple[str, ...], float]]:
    """All counters: name and labels -> value."""
    return Command(
        "HGETALL",
        [keys.METRICS],
        [],
        lambda raw: {tuple(name.split(_SEPARATOR)): float(value) for name, value in raw.items()},
    )


def note(*happened: str, **measured: float) -> Command[float]:
    """Note that something happened now, and numbers that go with it; answers Redis' time."""
    values: list[str | float] = []
    for name in happened:
        values += [name, "now"]
    for name, value in measured.items():
        values += [name, value]
    return Command("note", [keys.PULSE], values, float, is_script=True)


def pulse() -> Command[dict[str, float]]:
    """When what was noted happened last, epoch seconds, and the numbers."""
    return Command("HGETALL", [keys.PULSE], [], _numbers)


def alive(worker: str, queues: Sequence[str]) -> Command[int]:
    """A worker's heartbeat."""
    return Command(
        "alive", [keys.WORKERS], [_member(worker, queues), _FORGOTTEN_S], int, is_script=True
    )


def gone(worker: str, queues: Sequence[str]) -> Command[int]:
    """A worker ends."""
    return Command("ZREM", [keys.WORKERS], [_member(worker, queues)], int)


def workers() -> Command[list[Worker]]:
    """The workers that were heard of in the last day."""
    return Command("ZRANGE", [keys.WORKERS], [0, -1, "WITHSCORES"], _workers)


def first_due() -> Command[float | None]:
    """Since when, epoch seconds, the job is due that has been due for longest; in the future if
    none is; None if no job is live."""
    return Command(
        "ZRANGE",
        [keys.DUE],
        [0, 0, "WITHSCORES"],
        lambda raw: next((score for _, score in _scored(raw)), None),
    )


def credentials() -> Command[dict[str, Credential]]:
    """Every credential that a job has named."""
    return Command(
        "HGETALL",
        [keys.CREDENTIALS],
        [],
        lambda raw: {name: Credential.model_validate_json(text) for name, text in raw.items()},
    )


def born() -> Command[float | None]:
    """Since when there are jobs, epoch seconds."""
    return Command("GET", [keys.BORN], [], lambda raw: float(raw) if raw else None)


def was_delivered(webhook_id: str) -> Command[bool]:
    """Whether a webhook was taken before."""
    return Command("EXISTS", [keys.delivery(webhook_id)], [], bool)


def remember_delivery(webhook_id: str) -> Command[bool]:
    """Remember a webhook for longer than OpenAI sends it again."""
    return Command("SET", [keys.delivery(webhook_id)], ["1", "EX", keys.DELIVERY_TTL_S], bool)


def pushed(credential: str) -> Command[bool]:
    """Note that a webhook came for a batch of this credential."""
    return Command("SET", [keys.pushed(credential)], ["1", "EX", keys.PUSHED_TTL_S], bool)


def is_pushed(credential: str) -> Command[bool]:
    """Whether webhooks come for the batches of this credential."""
    return Command("EXISTS", [keys.pushed(credential)], [], bool)


def _member(worker: str, queues: Sequence[str]) -> str:
    return f"{worker} {','.join(queues)}"


def _field(name: str, labels: Sequence[str]) -> str:
    # A label that held the separator would be read as two.
    return _SEPARATOR.join([name, *(label.replace(_SEPARATOR, "/") for label in labels)])


def _numbers(raw: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in raw.items()}


def _scored(raw: Sequence[Any]) -> list[tuple[str, float]]:
    # RESP3 pairs members and scores up, RESP2 does not.
    pairs = (
        raw if raw and isinstance(raw[0], list | tuple) else zip(raw[::2], raw[1::2], strict=True)
    )
    return [(member, float(score)) for member, score in pairs]


def _workers(raw: Sequence[Any]) -> list[Worker]:
    found = []
    for member, seen_s in _scored(raw):
        name, _, queues = member.rpartition(" ")
        found.append(Worker(name, tuple(queues.split(",")), seen_s))
    return sorted(found, key=lambda worker: worker.name)
