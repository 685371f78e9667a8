"""4 Size: what many live jobs cost Redis, the beat tick and the sweep.

Jobs are recorded by the product's own commands, up to 100,000 in one Redis, and the sweep is the
workers' own: once with nothing due, then with so many due. Memory is measured with Redis' own
limit for compact hashes and with the recommended one, with and without an organization.
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
_TICK = "beat tick with nothing due"
_SWEEP = "sweep"
#: The largest field that Redis keeps in a compact hash: its own default, and what we recommend.
_DEFAULT, _RECOMMENDED = 64, 2048
_ORGANIZATION = "org-0123456789abcdefghijklmn"
#: Jobs of which the parts are measured.
_SAMPLED = 200
_MOST_BYTES = 2_048
_MOST_TICK_MS = 5.0
#: A sweep whose cost grows with what is due takes as long among many live jobs as among few.
_MOST_GROWTH = 1.5

program = Program("size", "Size: many live jobs in one Redis", __doc__)
program.option("--live", [1_000, 10_000, 100_000], "live jobs, ascending", several=True)
program.option("--due", [1_000], "how many of them are due", several=True)
program.option("--ticks", 50, "beat ticks with nothing due, in each round")
program.option("--rounds", 5, "how often each sweep is measured")


@dataclass(frozen=True)
class Population:
    """So many live jobs under a key prefix of their own."""

    settings: Settings
    runtime: Runtime
    jobs: list[LiveJob]

    @property
    def case(self) -> str:
        """How the tables name it."""
        return f"{len(self.jobs):,} live"

    def key(self, name: str) -> str:
        """A key as Redis has it."""
        return keys.full(self.settings.key_prefix, name)

    def forget_messages(self) -> None:
        """Nobody takes what the sweeps send."""
        for queue in all_queues(self.settings):
            self.runtime.store.redis.delete(queue)

    def make_due(self, due: int) -> None:
        """So many jobs are due, spread over all, and the others in a while."""
        redis: Any = self.runtime.store.redis
        later = {job.job_request.job_id: time.time() + 3_600 for job in self.jobs}
        step = len(self.jobs) // due
        redis.zadd(self.key(keys.DUE), later)
        now_due = {job.job_request.job_id: time.time() - 1 for job in self.jobs[::step][:due]}
        redis.zadd(self.key(keys.DUE), now_due)


def measure(options: argparse.Namespace) -> Result:
    """Record the jobs, each population on top of the one before; then tick and sweep."""
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
    """Record so many jobs under a prefix of their own, and see what they take."""
    whose = "with an organization" if organization else "no organization"
    case = f"{live:,} live, {whose}, listpack {value_bytes}"
    program.say(f"Recording {case}")
    settings = stack.settings(key_prefix=f"live{live}")
    store = connect(settings)
    redis: Any = store.redis
    # The commands themselves and the connections are there before the first job.
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
    """What the data takes, without buffers for the append-only file and clients."""
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
    program.say("Ticks with nothing due")
    for population in populations:
        population.make_due(1)
        sweep(population.runtime)
    sides = {p.case: partial(_tick_ms, p, options.ticks) for p in populations}
    found = alternate(options.rounds, sides)
    return [Measured(_TICK, case, OURS, "ms", tuple(times)) for case, times in found.items()]


def _tick_ms(population: Population, ticks: int) -> float:
    """What beat does, and what a worker does when it has the message: the median of some."""
    times = []
    for _ in range(ticks):
        begun_at = time.perf_counter()
        population.runtime.sender.send(Step.SWEEP)
        sweep(population.runtime)
        times.append((time.perf_counter() - begun_at) * 1000)
    population.forget_messages()
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
    population.forget_messages()
    return took_ms


def _length(store: JobStore, queue: str) -> int:
    redis: Any = store.redis
    return int(redis.llen(queue))


def _bars(measured: list[Measured], options: argparse.Namespace) -> list[Bar]:
    most, least, due = options.live[-1], options.live[0], options.due[-1]

    def median(figure: str, case: str) -> float:
        return next(m.median for m in measured if (m.figure, m.case) == (figure, case))

    bars = [
        Bar(f"Redis memory per live job, {m.case}", m.median, _MOST_BYTES, False, "bytes")
        for m in measured
        if m.figure == _MEMORY
        and m.case.startswith(f"{most:,} live")
        and m.case.endswith(f"listpack {_RECOMMENDED}")
    ]
    tick = median(_TICK, f"{most:,} live")
    bars.append(Bar(f"{_TICK}, {most:,} live", tick, _MOST_TICK_MS, False, "ms"))
    if least >= due:
        few, many = (median(_SWEEP, f"{due:,} due of {live:,}") for live in (least, most))
        growth = Bar(
            f"sweep of {due:,} due: among {most:,} live against among {least:,}",
            many / few,
            _MOST_GROWTH,
            False,
            "times as long",
            f"{many:,.0f} against {few:,.0f} ms",
        )
        bars.append(growth)
    return bars


def _notes() -> list[str]:
    return [
        "Live jobs are batches in progress, written by the product's own commands. The memory is "
        "Redis' used_memory less what it was without them, divided by the jobs; the parts are "
        "MEMORY USAGE of the keys. 'listpack' is Redis' hash-max-listpack-value: 64 is its own, "
        f"{_RECOMMENDED} is recommended. The events stream is bounded, and so its share falls: the "
        "bar is for the most jobs, with what is recommended.",
        "A tick is beat's send and the worker's sweep, without Celery's own way between them.",
        "Tick and sweep had a core for themselves, Redis another; nothing took the polls that were "
        "sent.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
