"""Prometheus' metric families, from values by label."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from batchflow.store import metrics

#: The prefix of all names.
_PREFIX = "batchflow_"
SECONDS = "seconds"

Labels = tuple[str, ...]
#: The counters in Redis: name and labels -> value.
Counters = Mapping[tuple[str, ...], float]


def gauge(
    name: str, text: str, values: Mapping[Labels, float], labels: Labels = (), *, unit: str = ""
) -> Metric:
    """A gauge; ``name`` is without the unit."""
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels, unit=unit)
    for found, value in values.items():
        family.add_metric(found, value)
    return family


def counter(
    name: str,
    text: str,
    values: Mapping[Labels, float],
    labels: Labels,
    *,
    known: Iterable[Labels],
    unit: str = "",
) -> Metric:
    """A counter. The series in ``known`` exist from the start, with 0: ``increase`` would miss the
    first event of a series that begins with it."""
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels, unit=unit)
    for found, value in {**dict.fromkeys(known, 0.0), **values}.items():
        family.add_metric(found, value)
    return family


def histogram(
    name: str,
    text: str,
    stored: str,
    counters: Counters,
    labels: Labels = (),
    *,
    known: Iterable[Labels] = (),
) -> Metric:
    """A histogram of the durations that Redis has under the name ``stored``."""
    bounds_s = (*metrics.BOUNDS_S[stored], math.inf)
    buckets = {found: [0.0] * len(bounds_s) for found in known}
    for found, number in counted(counters, stored + metrics.BUCKET, len(labels) + 1).items():
        numbers = buckets.setdefault(found[:-1], [0.0] * len(bounds_s))
        # An older version may have had other bounds.
        numbers[bisect_left(bounds_s, float(found[-1]))] += number
    sums = counted(counters, stored + metrics.SUM, len(labels))
    family = HistogramMetricFamily(_PREFIX + name, text, labels=labels, unit=SECONDS)
    for found, numbers in buckets.items():
        cumulative = zip(map(floatToGoString, bounds_s), accumulate(numbers), strict=True)
        family.add_metric(found, list(cumulative), sums.get(found, 0.0))
    return family


def counted(counters: Counters, name: str, labels: int) -> dict[Labels, float]:
    """The counters with a name, by their labels."""
    return {
        key[1:]: value
        for key, value in counters.items()
        if key[0] == name and len(key) == labels + 1
    }
