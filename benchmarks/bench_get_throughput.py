"""Measure ``GetTask`` calls per second and their response times.

Concurrent callers send calls for different live jobs to flytekit's gRPC server, each as soon as
the previous one returned. The server runs Batchflow's connector, the old plugin with a stub of
OpenAI that responds immediately, or a connector with constant responses, which shows the server's
own limit.
"""

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from batchflow_connector.resource_meta import JobMeta
from flytekitplugins.openai.batch.connector import BatchEndpointMetadata

from benchmarks.support import cores
from benchmarks.support.callers import Load, get_repeatedly, get_requests
from benchmarks.support.constant_connector import PHASE_ONLY_TASK_TYPE
from benchmarks.support.live_jobs import LiveJob, make_live
from benchmarks.support.program import Program
from benchmarks.support.results import OLD, OURS, Bar, Chart, Measured, Result, percentile
from benchmarks.support.rounds import alternate
from benchmarks.support.stack import Stack

CONSTANT = "constant connector"
PHASE_ONLY = "constant, phase only"

_TASK_TYPE = "openai-batch"
_ORGANIZATION = "org-benchmark"
_PER_SECOND = "GetTask per second"
_MEDIAN = "median response time"
_SLOWEST = "99th percentile of the response time"
_FLYTES_DEADLINE_S = 10.0
#: Long enough to check each job once.
_WARM_UP_S = 3.0

program = Program("get_throughput", "GetTask through flytekit's gRPC server", __doc__)
program.option("--jobs", 10_000, "number of live jobs")
program.option("--callers", [50, 500], "numbers of concurrent callers", several=True)
program.option("--seconds", 1.5, "duration of each measurement")
program.option("--rounds", 4, "rounds of each measurement")


def measure(options: argparse.Namespace) -> Result:
    """Start the three servers and measure them in alternation."""
    with Stack() as stack:
        program.say("Starting Redis, the stub and the servers")
        stack.redis()
        openai = {"OPENAI_BASE_URL": stack.openai_stub()}
        addresses = {
            OURS: stack.connector("batchflow_connector", name="batchflow"),
            OLD: stack.connector("flytekitplugins.openai", name="old-plugin", env=openai),
            CONSTANT: stack.connector("benchmarks.support.constant_connector", name="constant"),
        }
        addresses[PHASE_ONLY] = addresses[CONSTANT]
        program.say(f"Recording {options.jobs:,} live jobs")
        jobs = make_live(stack.store(), stack.settings(), options.jobs, organization=_ORGANIZATION)
        requests = _requests(jobs)
        program.say("Checking each job once")
        for side in (OURS, CONSTANT, PHASE_ONLY):
            _call_connector(stack, addresses[side], requests[side], options.callers[0], _WARM_UP_S)
        measured: list[Measured] = []
        for callers in options.callers:
            program.say(f"{callers} callers, {options.rounds} rounds")
            sides = {
                side: partial(
                    _call_connector,
                    stack,
                    addresses[side],
                    requests[side],
                    callers,
                    options.seconds,
                )
                for side in addresses
            }
            for side, loads in alternate(options.rounds, sides).items():
                measured += _measured(f"{callers} callers", side, loads)
    bars = [bar for callers in options.callers for bar in _bars(measured, f"{callers} callers")]
    chart = Chart(_PER_SECOND, "GetTask answered per second")
    return program.result(measured, bars, chart, _notes(options))


def _requests(jobs: list[LiveJob]) -> dict[str, list[bytes]]:
    """Calls with the ResourceMeta of each side; the constant connector receives ours."""
    ours = [JobMeta.of(job.job_request).encode() for job in jobs]
    old = [BatchEndpointMetadata(_ORGANIZATION, job.batch_id).encode() for job in jobs]
    return {
        OURS: get_requests(ours, _TASK_TYPE),
        OLD: get_requests(old, _TASK_TYPE),
        CONSTANT: get_requests(ours, _TASK_TYPE),
        PHASE_ONLY: get_requests(ours, PHASE_ONLY_TASK_TYPE),
    }


def _call_connector(
    stack: Stack, address: str, requests: list[bytes], callers: int, seconds: float
) -> Load:
    stack.await_idle()
    with cores.on(measured=False):
        load = asyncio.run(get_repeatedly(address, requests, callers=callers, duration_s=seconds))
    if load.failed:
        raise RuntimeError(f"{len(load.failed)} calls failed, the first with {load.failed[0]}")
    return load


def _measured(case: str, side: str, loads: list[Load]) -> list[Measured]:
    medians = tuple(percentile(load.latencies_s, 0.5) * 1000 for load in loads)
    slowest = tuple(percentile(load.latencies_s, 0.99) * 1000 for load in loads)
    return [
        Measured(_PER_SECOND, case, side, "/s", tuple(load.per_second for load in loads)),
        Measured(_MEDIAN, case, side, "ms", medians),
        Measured(_SLOWEST, case, side, "ms", slowest),
    ]


def _bars(measured: list[Measured], case: str) -> list[Bar]:
    per_second = {m.side: m.median for m in measured if (m.figure, m.case) == (_PER_SECOND, case)}
    ours = per_second[OURS]
    return [
        Bar(
            f"`GetTask` per second against {what}, {case}",
            ours / per_second[side],
            limit,
            True,
            "times",
            f"{ours:,.0f} against {per_second[side]:,.0f}",
        )
        for what, side, limit in (
            ("the old plugin", OLD, 60.0),
            ("the constant connector", CONSTANT, 0.9),
            ("the constant connector with a phase only", PHASE_ONLY, 0.9),
        )
    ]


def _notes(options: argparse.Namespace) -> list[str]:
    return [
        cores.note(),
        f"One server process at a time was called, over one channel, for {options.jobs:,} jobs.",
        f"No deadline was set. Flyte's deadline is {_FLYTES_DEADLINE_S:g} s.",
        "Each job had been checked before and no status changed, as between two polls, so the "
        "connector reused its responses.",
        f"The {CONSTANT} returns Batchflow's response for a running batch; "
        f"'{PHASE_ONLY}' omits message, details and link.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
