"""Commands that count and measure.

Every process of the fleet counts in one hash in Redis. No job depends on it.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from batchflow.store import keys
from batchflow.store.command import Command

#: The upper bounds of each histogram's buckets in seconds; the last bucket has none.
BOUNDS_S: Mapping[str, tuple[float, ...]] = {
    # From a batch's end at OpenAI to its observation; labeled with the source.
    "knowing": (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600),
    # The duration of a sweep.
    "sweep": (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    # The duration of a call to OpenAI, including a transfer; labeled with the operation.
    "openai_call": (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
}
#: The suffixes of a histogram's fields.
BUCKET = "_bucket"
SUM = "_sum"

_SEPARATOR = "|"


def count(name: str, *labels: str, by: float = 1) -> Command[float]:
    """Increase a counter."""
    return Command("HINCRBYFLOAT", [keys.METRICS], [_field(name, labels), by], float)


def observation(name: str, seconds: float, *labels: str) -> list[Command[float]]:
    """Add a duration to a histogram of BOUNDS_S. Its buckets are not cumulative. A negative
    duration, measured by a clock that is behind, counts as 0."""
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
    # A label that contains the separator would be split in two.
    return _SEPARATOR.join([name, *(label.replace(_SEPARATOR, "/") for label in labels)])
