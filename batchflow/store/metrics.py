"""Counters and histograms of the whole fleet, as commands.

Every process counts in Redis, in one hash. No job depends on it.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from batchflow.store import keys
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

_SEPARATOR = "|"


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


def _field(name: str, labels: Sequence[str]) -> str:
    # A label that held the separator would be read as two.
    return _SEPARATOR.join([name, *(label.replace(_SEPARATOR, "/") for label in labels)])
