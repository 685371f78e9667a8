"""Calculate the tables of docs/sizing.md from the measurements and the assumptions.

A value that was not measured yet is replaced by a note.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.support.capacity import THREADS, Capacity, NotMeasured
from benchmarks.support.results import OURS, Result, number

#: The numbers of batches in flight in the tables.
SIZES = (1_000, 10_000, 100_000)

_MB, _GB = 1e6, 1e9
_DAY_S = 86_400.0
#: Flyte's default, and its maximum: `internal/webapi/core.go` of flyteplugins.
_CACHED = 500_000
#: Flyte's defaults, used as minimums: `plugins/webapi/connector/config.go`.
_LEAST_WORKERS, _LEAST_QPS, _BURST = 10, 10, 100


@dataclass(frozen=True)
class Assumptions:
    """The assumptions about an installation."""

    #: Flyte's `caching.resyncInterval`.
    resync_s: float = 30
    #: The planned share of the measured capacity.
    used: float = 0.5
    #: The average time from a batch's start to its end.
    lifetime_h: float = 6
    #: The rate of starts at peak, as a multiple of the average.
    peak: float = 10
    #: Upload, batch and download, one after the other.
    jobs_per_batch: int = 3
    #: `BATCHFLOW_RETENTION_S`, in days.
    retention_days: float = 7
    #: The average sizes of a batch's files.
    input_mb: float = 20
    result_mb: float = 40

    def starts_per_s(self, batches: int) -> float:
        """The average number of batches that start, and end, per second."""
        return batches / (self.lifetime_h * 3600)

    def creates_per_s(self, batches: int) -> float:
        """`CreateTask` per second at peak."""
        return self.peak * self.starts_per_s(batches) * self.jobs_per_batch


def tables(results: Sequence[Result], given: Assumptions | None = None) -> dict[str, str]:
    """The Markdown for each pair of markers in docs/sizing.md."""
    capacity, given = Capacity({result.name: result for result in results}), given or Assumptions()
    return {
        "assumed": _assumed(given),
        "measured": _measured(capacity),
        "sizes": _sizes(capacity, given),
        "pools": _pools(capacity),
        "flyte": _flyte(capacity, given),
    }


def _assumed(given: Assumptions) -> str:
    rows = [
        ("interval of Flyte's status checks (`caching.resyncInterval`)", f"{given.resync_s:g} s"),
        ("planned share of the measured capacity", f"{given.used:.0%}"),
        ("average duration of a batch", f"{given.lifetime_h:g} hours"),
        ("starts at peak", f"{given.peak:g} times the average"),
        ("jobs per batch, one after the other", f"{given.jobs_per_batch}"),
        ("memory of an ended job", "as a live one"),
        ("`BATCHFLOW_RETENTION_S`", f"{given.retention_days:g} days"),
        ("input, result of a batch", f"{given.input_mb:g} MB, {given.result_mb:g} MB"),
    ]
    return _table(("assumed", ""), rows)


def _measured(capacity: Capacity) -> str:
    rows: list[tuple[str, str, str, Callable[[], float]]] = [
        ("one connector, `GetTask`", "/s", "get_throughput", capacity.gets_per_s),
        ("one connector, `CreateTask`", "/s", "create_burst", capacity.creates_per_s),
        (
            f"one submit worker, {THREADS} threads",
            "/s",
            "submit_throughput",
            capacity.submits_per_s,
        ),
        ("its memory", "MB", "submit_throughput", capacity.submitter_mb),
        (
            "polling 1,000 batches",
            "% of a core",
            "polling_cost",
            lambda: capacity.polling_share() * 1000 * 100,
        ),
        (
            "one files worker, one upload at a time",
            "MB/s",
            "files",
            partial(capacity.transfer_mb_per_s, "upload"),
        ),
        (
            "one files worker, one download at a time",
            "MB/s",
            "files",
            partial(capacity.transfer_mb_per_s, "download"),
        ),
        ("its peak memory", "MB", "files", capacity.files_mb),
        ("Redis, one live job", "bytes", "size", capacity.bytes_per_job),
    ]
    return _table(
        ("measured", "", "by"),
        [
            (what, _or_missing(partial(_quantity, found, unit)), f"`bench_{name}.py`")
            for what, unit, name, found in rows
        ],
    )


def _quantity(found: Callable[[], float], unit: str) -> str:
    return f"{number(found())} {unit}"


def _sizes(capacity: Capacity, given: Assumptions) -> str:
    rows: list[tuple[str, Callable[[int], str]]] = [
        ("status checks by Flyte", lambda n: f"{number(n / given.resync_s)} per second"),
        ("starts, on average", lambda n: _per_minute(given.starts_per_s(n))),
        ("starts, at peak", lambda n: _per_minute(given.peak * given.starts_per_s(n))),
        ("connectors", lambda n: f"{_connectors(capacity, given, n):,}"),
        (
            f"workers, `submit`, {THREADS} threads each",
            lambda n: f"{_submitters(capacity, given, n):,}",
        ),
        ("workers, `poll`", lambda n: f"{_pollers(capacity, given, n):,}"),
        ("workers, `files`, 1 transfer each", lambda n: f"{_movers(capacity, given, n):,}"),
        ("calls to OpenAI per minute, polling only", lambda n: _calls(capacity, n, webhooks=False)),
        ("calls to OpenAI per minute, with webhooks", lambda n: _calls(capacity, n, webhooks=True)),
        ("Redis, live jobs", lambda n: _bytes(n * capacity.bytes_per_job())),
        ("Redis, live and ended jobs", lambda n: _bytes(_redis(capacity, given, n))),
        ("Redis, `maxmemory`", lambda n: _bytes(_redis(capacity, given, n) / given.used)),
    ]
    return _table(
        ("batches in flight", *(f"{size:,}" for size in SIZES)),
        [(what, *(_or_missing(partial(cell, size)) for size in SIZES)) for what, cell in rows],
    )


def _connectors(capacity: Capacity, given: Assumptions, batches: int) -> int:
    checks = batches / given.resync_s / capacity.gets_per_s()
    creates = given.creates_per_s(batches) / capacity.creates_per_s()
    return _processes(checks + creates, given)


def _submitters(capacity: Capacity, given: Assumptions, batches: int) -> int:
    starts_per_s = given.peak * given.starts_per_s(batches)
    return _processes(starts_per_s / capacity.submits_per_s(), given)


def _pollers(capacity: Capacity, given: Assumptions, batches: int) -> int:
    return _processes(batches * capacity.polling_share(), given)


def _movers(capacity: Capacity, given: Assumptions, batches: int) -> int:
    """Sized for the average: at peak, files may wait in the queue."""
    seconds = given.input_mb / capacity.transfer_mb_per_s("upload")
    seconds += given.result_mb / capacity.transfer_mb_per_s("download")
    return _processes(given.starts_per_s(batches) * seconds, given)


def _processes(busy: float, given: Assumptions) -> int:
    """The number of processes: at least two, so that one can be restarted."""
    return max(2, math.ceil(busy / given.used))


def _calls(capacity: Capacity, batches: int, *, webhooks: bool) -> str:
    calls, exactly = capacity.calls_per_minute(batches, webhooks=webhooks)
    return number(calls) + ("" if exactly else " *")


def _redis(capacity: Capacity, given: Assumptions, batches: int) -> float:
    """Bytes of live and ended jobs."""
    ended = given.starts_per_s(batches) * given.retention_days * _DAY_S * given.jobs_per_batch
    return (batches + ended) * capacity.bytes_per_job()


def _pools(capacity: Capacity) -> str:
    figures = {
        "submits per second": "/s",
        "CPU time per submit": "ms",
        "memory, shared pages counted once": "MB",
    }
    try:
        rows = []
        for pool in ("threads", "prefork"):
            found = {f: capacity.all("submit_throughput", f, f"{OURS}, {pool}") for f in figures}
            for cells in zip(*found.values(), strict=True):
                shown = [f"{number(m.median)} {m.unit}" for m in cells]
                rows.append((f"`{pool}`", cells[0].case, *shown))
    except NotMeasured as error:
        return _missing(error)
    heads = ("pool", "steps", "submits", "CPU time per submit", "memory, shared pages counted once")
    return _table(heads, rows) + "\n\n![Submits per second](images/bench-submit-throughput.svg)"


def _flyte(capacity: Capacity, given: Assumptions) -> str:
    try:
        return "\n\n".join(_yaml(capacity, given, size) for size in SIZES)
    except NotMeasured as error:
        return _missing(error)


def _yaml(capacity: Capacity, given: Assumptions, batches: int) -> str:
    checks_per_s = batches / given.resync_s
    qps = max(_LEAST_QPS, math.ceil(checks_per_s / given.used))
    write_qps = max(_LEAST_QPS, math.ceil(given.creates_per_s(batches) / given.used))
    workers = max(_LEAST_WORKERS, math.ceil(checks_per_s * capacity.get_s() / given.used))
    quota = math.ceil(batches / given.used)
    return f"""For {batches:,} batches in flight:

```yaml
plugins:
  connector-service:
    webApi:
      readRateLimiter: {{qps: {qps}, burst: {_BURST}}}
      writeRateLimiter: {{qps: {write_qps}, burst: {_BURST}}}
      caching:
        size: {_CACHED}
        resyncInterval: {given.resync_s:g}s
        workers: {workers}
        maxSystemFailures: 100000
      resourceQuotas:
        default: {quota}
    resourceConstraints:
      ProjectScopeResourceConstraint: {{Value: {quota}}}
      NamespaceScopeResourceConstraint: {{Value: {quota}}}
```"""


def _or_missing(found: Callable[[], str]) -> str:
    try:
        return found()
    except NotMeasured as error:
        return _missing(error)


def _missing(error: NotMeasured) -> str:
    return f"Not measured yet: {error}."


def _per_minute(per_s: float) -> str:
    return f"{number(per_s * 60)} per minute"


def _bytes(value: float) -> str:
    return f"{number(value / _GB)} GB" if value >= _GB else f"{number(value / _MB)} MB"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
