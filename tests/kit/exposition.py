"""The response of /metrics, parsed as Prometheus does, and a linter for it."""

import math
import re
from collections import Counter
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
TEXT = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"batchflow(_[a-z][a-z0-9]*)+")
#: As in promtool's linter: units that are not base units, and short forms of units and types.
_NOT_IN_NAMES = re.compile(
    r"_(s|ms|us|ns|secs?|mins?|hr|milliseconds|minutes|hours|days|percent|bits|[km]b|kilobytes"
    r"|megabytes|counter|gauge|histogram|summary|num)(?=_|$)"
)
#: Reserved by Prometheus.
_TAKEN_LABELS = frozenset({"job", "instance", "le", "quantile"})
_OF_HISTOGRAMS = ("_bucket", "_count", "_sum")


class Exposition:
    """The samples of a response by name and labels."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        parse = parse_openmetrics if openmetrics else parse_text
        self.families: list[Metric] = list(parse(text))
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The value of a sample of ``batchflow_<name>``; None if there is none."""
        # A trailing underscore avoids Python's keywords.
        named = {label.rstrip("_"): value for label, value in labels.items()}
        return self.samples.get((f"batchflow_{name}", tuple(sorted(named.items()))))

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        wanted = {label.rstrip("_"): value for label, value in labels.items()}.items()
        return sum(
            value
            for (found, its), value in self.samples.items()
            if found == f"batchflow_{name}" and wanted <= dict(its).items()
        )

    def labels_by_name(self) -> dict[str, set[str]]:
        """The labels of the samples by name."""
        found: dict[str, set[str]] = {}
        for name, labels in self.samples:
            found.setdefault(name, set()).update(label for label, _ in labels)
        return found


def problems(text: str) -> list[str]:
    """The faults in a response in Prometheus' text format."""
    families = Exposition(text).families
    names = Counter(family.name for family in families)
    series = Counter(
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in families
        for sample in family.samples
    )
    found = [f"{name} is present {n} times" for name, n in (names + series).items() if n > 1]
    for family in families:
        found += [f"{family.name} {problem}" for problem in _of_family(family)]
    return found


def _of_family(family: Metric) -> Iterator[str]:
    words = family.name.split("_")
    if not _NAME.fullmatch(family.name):
        yield "is not a valid name"
    if bad := _NOT_IN_NAMES.search(family.name):
        yield f"has {bad[1]} in its name"
    if family.type not in ("counter", "gauge", "histogram"):
        yield f"is a {family.type}"
    if family.type != "histogram" and family.name.endswith(_OF_HISTOGRAMS):
        yield "has the name of a part of a histogram"
    if family.type != "counter" and family.name.endswith("_total"):
        yield "has the name of a counter"
    if {"age", "lag", "duration", "backoff", "wait"} & set(words) and words[-1] != "seconds":
        yield "does not name its unit"
    if not re.fullmatch(r"[A-Z].{8,}\.", family.documentation):
        yield f"has the documentation {family.documentation!r}"
    labels = [frozenset(sample.labels) - {"le"} for sample in family.samples]
    if len(set(labels)) > 1:
        yield f"has several sets of labels: {set(labels)}"
    for label in set().union(*labels):
        if label in _TAKEN_LABELS or not re.fullmatch(r"[a-z]+", label):
            yield f"has the label {label}"
    for sample in family.samples:
        if family.type == "counter" and not sample.name.endswith("_total"):
            yield f"has a sample {sample.name}"
        if any(value == "" for name, value in sample.labels.items() if name != "model"):
            yield f"has an empty label: {sample.labels}"
        if not (math.isfinite(sample.value) and sample.value >= 0):
            yield f"is {sample.value}"
    if family.type == "histogram":
        yield from _of_histogram(family)


def _of_histogram(family: Metric) -> Iterator[str]:
    by_labels: dict[frozenset[tuple[str, str]], dict[str, float]] = {}
    for sample in family.samples:
        labels = frozenset((name, value) for name, value in sample.labels.items() if name != "le")
        by_labels.setdefault(labels, {})[sample.labels.get("le", sample.name)] = sample.value
    for values in by_labels.values():
        count, _ = values.pop(f"{family.name}_count"), values.pop(f"{family.name}_sum")
        bounds, counts = list(map(float, values)), list(values.values())
        if bounds != sorted(bounds) or bounds[-1] != math.inf:
            yield f"has the bounds {bounds}"
        if counts != sorted(counts) or counts[-1] != count:
            yield f"has the counts {counts} of {count}"
