"""Measure Redis memory, the beat tick and the sweep with many live jobs.

The store's commands record up to 100,000 jobs in one Redis. The workers' sweep runs without due
jobs and with ``--due`` of them. Memory is measured with Redis' default and with the recommended
limit for compact hashes, with and without an organization.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from batchflow_workers.polling.sweep import sweep
from batchflow_workers.runtime import Runtime

from batchflow.queue import Queue, Sender, Step, all_queues, make_app, queue_name
from batchflow.settings import Settings
from batchflow.store import JobStore, connect, keys
from benchmarks.support import cores
from benchmarks.support.live_jobs import LiveJob, make_live
from benchmarks.support.program import Program
from benchmarks.support.results import OURS, Bar, Chart, Measured, Result
from benchmarks.support.rounds import alternate
from benchmarks.support.stack import Stack

_MEMORY = "Redis memory per live job"
_PARTS = "of which"
_TICK = "beat tick without due jobs"
_SWEEP = "sweep"
#: The largest field of a compact hash: Redis' default and the recommended value.
_DEFAULT, _RECOMMENDED = 64, 2048
_ORGANIZATION = "org-0123456789abcdefghijklmn"
#: The number of jobs whose keys are measured.
_SAMPLED = 200
_MAX_BYTES = 2_048
_MAX_TICK_MS = 5.0
#: The cost of a sweep must depend on the due jobs, not on the live jobs.
_MAX_GROWTH = 1.5

program = Program("size", "Many live jobs in one Redis", __doc__)
program.option("--live", [1_000, 10_000, 100_000], "numbers of live jobs, ascending", several=True)
program.option("--due", [1_000], "numbers of due jobs", several=True)
program.option("--ticks", 50, "beat ticks without due jobs, in each round")
program.option("--rounds", 5, "rounds of each measurement")


@dataclass(frozen=True)
class Population:
    """Active jobs under one key prefix."""

    settings: Settings
    runtime: Runtime
    jobs: list[LiveJob]

    @property
    def case(self) -> str:
        """The name of the case in tables."""
        return f"{len(self.jobs):,} live"

    def key(self, name: str) -> str:
        """Return a key with its prefix."""
        return keys.full(self.settings.key_prefix, name)

    def delete_messages(self) -> None:
        """Delete the messages that the sweeps sent."""
        for queue in all_queues(self.settings):
            self.runtime.store.redis.delete(queue)

    def make_due(self, due: int) -> None:
        """Make this number of jobs due, evenly spread, and the others due in an hour."""
        redis: Any = self.runtime.store.redis
        later = {job.job_request.job_id: time.time() + 3_600 for job in self.jobs}
        step = len(self.jobs) // due
        redis.zadd(self.key(keys.DUE), later)
        now_due = {job.job_request.job_id: time.time() - 1 for job in self.jobs[::step][:due]}
        redis.zadd(self.key(keys.DUE), now_due)


def measure(options: argparse.Namespace) -> Result:
    """Record each population beside the previous ones; then measure ticks and sweeps."""
    measured: list[Measured] = []
    with Stack() as stack, cores.on(measured=True):
        populations = []
        _redis(stack, _RECOMMENDED, "redis")
        for live in options.live:
            population, found = _populate(stack, live, _ORGANIZATION, _RECOMMENDED)
            populations.append(population)
            measured += found
        measured += _ticks(populations, options)
        measured += _sweeps(populations, options)
        least = options.live[0]
        for organization, value_bytes in (
            (None, _RECOMMENDED),
            (_ORGANIZATION, _DEFAULT),
            (None, _DEFAULT),
        ):
            _redis(stack, value_bytes, f"redis-{value_bytes}-{bool(organization)}")
            measured += _populate(stack, least, organization, value_bytes)[1]
    chart = Chart(_MEMORY, "Redis memory per live job, in bytes")
    return program.result(measured, _bars(measured, options), chart, _notes())


def _redis(stack: Stack, value_bytes: int, name: str) -> None:
    stack.redis("--hash-max-listpack-value", str(value_bytes), name=name)


def _populate(
    stack: Stack, live: int, organization: str | None, value_bytes: int
) -> tuple[Population, list[Measured]]:
    """Record jobs under a new key prefix and measure their memory."""
    scope = "with an organization" if organization else "no organization"
    case = f"{live:,} live, {scope}, listpack {value_bytes}"
    program.say(f"Recording {case}")
    settings = stack.settings(key_prefix=f"live{live}")
    store = connect(settings)
    redis: Any = store.redis
    # Load the scripts and open the connections before the measurement.
    make_live(store, settings, 2_000, organization=organization, first=10**9)
    redis.delete(*redis.scan_iter(f"{settings.key_prefix}:*", count=10_000))
    empty_bytes = _used_bytes(redis)
    jobs = make_live(store, settings, live, organization=organization)
    per_job = (_used_bytes(redis) - empty_bytes) / live
    found = [Measured(_MEMORY, case, OURS, "bytes", (per_job,))]
    found += [
        Measured(_PARTS, case, part, "bytes", (value,))
        for part, value in _parts(redis, settings, jobs).items()
    ]
    runtime = Runtime(settings, store, Sender(make_app(settings)))
    return Population(settings, runtime, jobs), found


def _used_bytes(redis: Any) -> int:
    """Memory of the data, without buffers for the append-only file and clients."""
    info = redis.info("memory")
    buffers = info.get("mem_aof_buffer", 0) + info.get("mem_clients_normal", 0)
    return int(info["used_memory"]) - int(buffers)


def _parts(redis: Any, settings: Settings, jobs: list[LiveJob]) -> dict[str, float]:
    """Bytes per job by kind of key, as Redis estimates them."""
    step = max(1, len(jobs) // _SAMPLED)

    def usage(name: str) -> int:
        return int(redis.memory_usage(keys.full(settings.key_prefix, name), samples=0) or 0)

    sample = jobs[::step]
    records = statistics.mean(usage(keys.job(job.job_request.job_id)) for job in sample)
    pointers = statistics.mean(usage(keys.openai(job.batch_id)) for job in sample)
    names = (keys.INDEX, keys.EVENTS, keys.DUE, keys.RECENT)
    shared = {name: usage(name) / len(jobs) for name in names}
    return {"job:<id>": records, "openai:<id>": pointers, **shared}


def _ticks(populations: list[Population], options: argparse.Namespace) -> list[Measured]:
    program.say("Ticks without due jobs")
    for population in populations:
        population.make_due(1)
        sweep(population.runtime)
    sides = {p.case: partial(_tick_ms, p, options.ticks) for p in populations}
    found = alternate(options.rounds, sides)
    return [Measured(_TICK, case, OURS, "ms", tuple(times)) for case, times in found.items()]


def _tick_ms(population: Population, ticks: int) -> float:
    """The median time of beat's send and the worker's sweep."""
    times = []
    for _ in range(ticks):
        begun_at = time.perf_counter()
        population.runtime.sender.send(Step.SWEEP)
        sweep(population.runtime)
        times.append((time.perf_counter() - begun_at) * 1000)
    population.delete_messages()
    return statistics.median(times)


def _sweeps(populations: list[Population], options: argparse.Namespace) -> list[Measured]:
    measured = []
    for due in options.due:
        program.say(f"Sweeps with {due:,} due")
        sides: dict[str, Callable[[], float]] = {
            f"{due:,} due of {len(p.jobs):,}": partial(_sweep_ms, p, due)
            for p in populations
            if len(p.jobs) >= due
        }
        found = alternate(options.rounds, sides)
        measured += [
            Measured(_SWEEP, case, OURS, "ms", tuple(times)) for case, times in found.items()
        ]
    return measured


def _sweep_ms(population: Population, due: int) -> float:
    population.make_due(due)
    begun_at = time.perf_counter()
    sweep(population.runtime)
    took_ms = (time.perf_counter() - begun_at) * 1000
    queue = queue_name(population.settings.key_prefix, Queue.POLL)
    if not _length(population.runtime.store, queue):
        raise RuntimeError("The sweep sent no poll.")
    population.delete_messages()
    return took_ms


def _length(store: JobStore, queue: str) -> int:
    redis: Any = store.redis
    return int(redis.llen(queue))


def _bars(measured: list[Measured], options: argparse.Namespace) -> list[Bar]:
    most, least, due = options.live[-1], options.live[0], options.due[-1]

    def median(figure: str, case: str) -> float:
        return next(m.median for m in measured if (m.figure, m.case) == (figure, case))

    bars = [
        Bar(f"Redis memory per live job, {m.case}", m.median, _MAX_BYTES, False, "bytes")
        for m in measured
        if m.figure == _MEMORY
        and m.case.startswith(f"{most:,} live")
        and m.case.endswith(f"listpack {_RECOMMENDED}")
    ]
    tick = median(_TICK, f"{most:,} live")
    bars.append(Bar(f"{_TICK}, {most:,} live", tick, _MAX_TICK_MS, False, "ms"))
    if least >= due:
        few, many = (median(_SWEEP, f"{due:,} due of {live:,}") for live in (least, most))
        growth = Bar(
            f"sweep of {due:,} due: among {most:,} live against among {least:,}",
            many / few,
            _MAX_GROWTH,
            False,
            "times as long",
            f"{many:,.0f} against {few:,.0f} ms",
        )
        bars.append(growth)
    return bars


def _notes() -> list[str]:
    return [
        "Active jobs are batches in progress, written by the store's commands. The memory is the "
        "increase of Redis' used_memory, divided by the number of jobs; the parts are MEMORY USAGE "
        "of the keys. 'listpack' is Redis' hash-max-listpack-value: 64 is the default, "
        f"{_RECOMMENDED} is recommended. The events stream is bounded, so its share decreases: the "
        "bar is for the most jobs with the recommended value.",
        "A tick is beat's send and the worker's sweep, without Celery's delivery.",
        "Tick and sweep had one core, Redis had the other. No worker received the polls.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
