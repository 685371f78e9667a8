"""Measure many concurrent ``CreateTask`` calls, as at the start of a fan-out.

All calls are sent at once over one channel with Flyte's deadline: to Batchflow's connector with a
real Redis and broker, to the old plugin with a stub of OpenAI that responds immediately, and to a
connector with a constant response. Flyte fails a task attempt if its call exceeds the deadline.
"""

import argparse
import asyncio
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import grpc
from flyteidl.admin.agent_pb2 import CreateTaskRequest

from batchflow.states import JobKind
from batchflow.store import index
from benchmarks.support import cores
from benchmarks.support.callers import Load, create_all
from benchmarks.support.create_requests import request_maker
from benchmarks.support.program import Program
from benchmarks.support.results import OLD, OURS, Bar, Chart, Measured, Result, percentile
from benchmarks.support.rounds import alternate
from benchmarks.support.stack import Stack

CONSTANT = "constant connector"

_IN_TIME = "created in time"
_REFUSED = "refused by the server"
_PER_SECOND = "CreateTask per second"
_SLOWEST = "99th percentile of the response time"

_LATE = grpc.StatusCode.DEADLINE_EXCEEDED.name
_WARM_UP, _WARM_UP_S = 20, 60.0

program = Program("create_burst", "Concurrent CreateTask calls", __doc__)
program.option("--tasks", 2_000, "number of concurrent calls")
program.option("--deadline-s", 10.0, "deadline of each call")
program.option("--rounds", 3, "rounds of each measurement")
program.option("--workers", 0, "Celery processes that submit meanwhile, on the other cores")


@dataclass(frozen=True)
class Burst:
    """The result of one burst."""

    tasks: int
    load: Load
    #: The calls whose job is recorded by the first ``GetTask``.
    unrecorded: int = 0

    @property
    def in_time(self) -> int:
        """The number of calls that succeeded within the deadline."""
        return len(self.load.latencies_s)

    @property
    def refused(self) -> int:
        """How many the server did not take: gRPC has a limit of requests that wait for it."""
        return len(self.load.failed) - self.late

    @property
    def late(self) -> int:
        """How many missed the deadline."""
        return self.load.failed.count(_LATE)

    @property
    def slowest_s(self) -> float:
        """99th percentile, those that were late included."""
        late = [self.load.deadline_s or math.inf] * self.late
        return percentile(self.load.latencies_s + late, 0.99)


def measure(options: argparse.Namespace) -> Result:
    """Start the three servers, then burst after burst."""
    with Stack() as stack:
        program.say("Starting Redis, the stub and the servers")
        stack.redis()
        openai = {"OPENAI_BASE_URL": stack.openai_stub()}
        addresses = {
            OURS: stack.connector("batchflow_connector", name="batchflow"),
            OLD: stack.connector("flytekitplugins.openai", name="old-plugin", env=openai),
            CONSTANT: stack.connector("benchmarks.support.constant_connector", name="constant"),
        }
        if options.workers:
            queue = f"{stack.settings().key_prefix}.submit"
            stack.worker("-Q", queue, "--concurrency", str(options.workers), env=openai)
        make_requests = request_maker(
            stack.blobs, organization="org-benchmark", input_file_id="file-0123456789abcdef"
        )
        program.say(f"{options.tasks:,} tasks at once, {options.rounds} rounds")
        sides: dict[str, Callable[[], Burst]] = {
            side: partial(_burst, stack, address, make_requests, options)
            for side, address in addresses.items()
        }
        bursts = alternate(options.rounds, sides)
        recorded = sum(
            number
            for (kind, _), number in stack.store().run(index.counts()).items()
            if kind is JobKind.BATCH
        )
    measured = [entry for side in sides for entry in _measured(side, bursts[side], options.tasks)]
    made = sum(burst.in_time - burst.unrecorded for burst in bursts[OURS])
    if recorded < made:
        raise RuntimeError(f"{made} creates were answered, and Redis has {recorded} jobs.")
    chart = Chart(
        _IN_TIME, f"Of {options.tasks:,} tasks created at once, how many met the deadline"
    )
    return program.result(measured, _bars(bursts, options), chart, _notes(options))


def _burst(
    stack: Stack,
    address: str,
    make_requests: Callable[[int], list[CreateTaskRequest]],
    options: argparse.Namespace,
) -> Burst:
    stack.await_idle()
    requests = make_requests(options.tasks)
    with cores.on(measured=False):
        # Connect, and let the server finish its lazy imports.
        asyncio.run(create_all(address, make_requests(_WARM_UP), deadline_s=_WARM_UP_S))
        load, metas = asyncio.run(create_all(address, requests, deadline_s=options.deadline_s))
    if any(b'"refused"' in meta for meta in metas):
        raise RuntimeError(f"A task was refused: {metas[0]!r}")
    return Burst(options.tasks, load, sum(b'"unrecorded"' in meta for meta in metas))


def _measured(side: str, bursts: list[Burst], tasks: int) -> list[Measured]:
    case = f"{tasks:,} at once"
    return [
        Measured(_IN_TIME, case, side, "", tuple(burst.in_time for burst in bursts)),
        Measured(_REFUSED, case, side, "", tuple(burst.refused for burst in bursts)),
        Measured(_PER_SECOND, case, side, "/s", tuple(b.load.per_second for b in bursts)),
        Measured(_SLOWEST, case, side, "s", tuple(burst.slowest_s for burst in bursts)),
    ]


def _bars(bursts: dict[str, list[Burst]], options: argparse.Namespace) -> list[Bar]:
    worst = {side: min(bursts[side], key=lambda burst: burst.in_time) for side in bursts}
    ours, old = worst[OURS], worst[OLD]
    return [
        Bar(
            f"{options.tasks:,} creates at once that exceed {options.deadline_s:g} s",
            ours.tasks - ours.in_time,
            0,
            False,
            "tasks",
            f"{ours.late:,} late and {ours.refused:,} refused in the worst round; "
            f"the old plugin: {old.late:,} and {old.refused:,}",
        )
    ]


def _notes(options: argparse.Namespace) -> list[str]:
    workers = (
        f"{options.workers} Celery processes submitted the jobs meanwhile."
        if options.workers
        else "No worker ran. In production, workers run on other machines."
    )
    return [
        cores.note(),
        workers,
        "All calls used one channel, as FlytePropeller's do. A late call counts with its deadline "
        "in the 99th percentile.",
        "gRPC's server refuses random requests when more than 1,000 wait. They count as failures, "
        "like late calls.",
        "The old plugin's create calls OpenAI. Here a stub responded immediately.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
