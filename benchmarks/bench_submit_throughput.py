"""Measure the steps per second of a Celery worker, by pool and concurrency.

A new worker runs submit steps from a queue that never becomes empty. Each makes one call to a stub
of OpenAI, which responds after a latency. After a warm-up, the program measures the submitted
jobs, the CPU time and the memory of the worker and its children.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from batchflow.jobs import BatchSpec, JobRequest, random_job_id
from batchflow.queue import Queue, Sender, Step, make_app, queue_name
from batchflow.states import JobKind, JobState
from batchflow.store import JobStore, index, records
from benchmarks.support import cores, usage
from benchmarks.support.live_jobs import CONFIG, credential_of
from benchmarks.support.program import Program
from benchmarks.support.results import OURS, Chart, Measured, Result
from benchmarks.support.rounds import alternate
from benchmarks.support.stack import Stack

_PER_SECOND = "submits per second"
_CPU = "CPU time per submit"
_RSS = "memory, all processes"
_PSS = "memory, shared pages counted once"
_MB = 1_000_000
#: Long, so that no job becomes due during the measurement.
_DUE_S = 3_600
#: The number of uncounted steps per thread or child: they import modules and connect.
_WARM_UP = 2
_WARM_UP_S = 120.0
_POLL_S = 0.05

program = Program("submit_throughput", "Submits by one Celery worker", __doc__)
program.option("--pools", ["threads", "prefork"], "Celery pools", several=True)
program.option("--concurrency", [4, 16], "numbers of concurrent steps", several=True)
program.option("--latency-ms", 100.0, "latency of OpenAI")
program.option("--seconds", 2.0, "duration of each measurement")
program.option("--most", 500, "maximum submits per second, for the length of the queue")
program.option("--rounds", 2, "rounds of each measurement")


@dataclass(frozen=True)
class Work:
    """The work of one worker."""

    steps: int
    elapsed_s: float
    cpu_s: float
    rss_bytes: int
    pss_bytes: int


def measure(options: argparse.Namespace) -> Result:
    """Measure one worker at a time, each on the same core."""
    measured: list[Measured] = []
    with Stack() as stack:
        program.say("Starting Redis and the stub")
        stack.redis()
        openai = {"OPENAI_BASE_URL": stack.openai_stub(latency_ms=options.latency_ms)}
        program.say(f"Submits, {options.rounds} rounds")
        sides: dict[tuple[int, str], Callable[[], Work]] = {
            (concurrency, pool): partial(_work, stack, openai, pool, concurrency, options)
            for concurrency in options.concurrency
            for pool in options.pools
        }
        named = {f"{concurrency} {pool}": side for (concurrency, pool), side in sides.items()}
        found = alternate(options.rounds, named)
        for concurrency, pool in sides:
            works = found[f"{concurrency} {pool}"]
            measured += _measured(f"{concurrency} at once", f"{OURS}, {pool}", works)
    chart = Chart(_PER_SECOND, f"Submits per second, with a latency of {options.latency_ms:g} ms")
    return program.result(measured, [], chart, _notes(options))


def _work(
    stack: Stack,
    openai: Mapping[str, str],
    pool: str,
    concurrency: int,
    options: argparse.Namespace,
) -> Work:
    settings, store = stack.settings(), stack.store()
    queue = queue_name(settings.key_prefix, Queue.SUBMIT)
    warm_up = _WARM_UP * concurrency
    _fill(stack, store, queue, warm_up + int(options.most * (options.seconds + 1)))
    begun = _made(store)
    worker = stack.worker(
        *("-Q", queue, "--pool", pool, "--concurrency", str(concurrency)), env=openai, measured=True
    )
    try:
        pid = worker.pid
        _await(store, begun + warm_up)
        steps, cpu_s, begun_at = _made(store), usage.cpu_s(pid), time.perf_counter()
        time.sleep(options.seconds)
        steps, elapsed_s = _made(store) - steps, time.perf_counter() - begun_at
        cpu_s = usage.cpu_s(pid) - cpu_s
        if not _length(store, queue):
            raise RuntimeError(f"{pool}, {concurrency}: the queue became empty. Increase --most.")
        return Work(steps, elapsed_s, cpu_s, usage.now_bytes(pid), usage.shared_once_bytes(pid))
    finally:
        stack.kill(worker)


def _fill(stack: Stack, store: JobStore, queue: str, wanted: int) -> None:
    """Record jobs and enqueue their submits until this number of messages waits."""
    credential = credential_of("org-benchmark")
    spec = BatchSpec(credential=credential, input_file_id="file-0123456789abcdef", config=CONFIG)
    missing = wanted - _length(store, queue)
    job_requests = [JobRequest(job_id=random_job_id(), spec=spec) for _ in range(missing)]
    store.run_all([records.create(job_request, due_in_s=_DUE_S) for job_request in job_requests])
    sender = Sender(make_app(stack.settings()))
    for job_request in job_requests:
        sender.send(Step.SUBMIT, job_request.job_id)


def _made(store: JobStore) -> int:
    """The number of submitted jobs."""
    return store.run(index.counts()).get((JobKind.BATCH, JobState.RUNNING), 0)


def _await(store: JobStore, made: int) -> None:
    deadline = time.monotonic() + _WARM_UP_S
    while _made(store) < made:
        if time.monotonic() > deadline:
            raise RuntimeError(f"The worker did not submit {made} batches within {_WARM_UP_S:g} s.")
        time.sleep(_POLL_S)


def _length(store: JobStore, queue: str) -> int:
    redis: Any = store.redis
    return int(redis.llen(queue))


def _measured(case: str, side: str, works: list[Work]) -> list[Measured]:
    return [
        Measured(_PER_SECOND, case, side, "/s", tuple(w.steps / w.elapsed_s for w in works)),
        Measured(_CPU, case, side, "ms", tuple(w.cpu_s / w.steps * 1000 for w in works)),
        Measured(_RSS, case, side, "MB", tuple(w.rss_bytes / _MB for w in works)),
        Measured(_PSS, case, side, "MB", tuple(w.pss_bytes / _MB for w in works)),
    ]


def _notes(options: argparse.Namespace) -> list[str]:
    return [
        cores.note(),
        f"One worker at a time ran, all its processes on one core. The stub responded to each call "
        f"after {options.latency_ms:g} ms.",
        f"The first {_WARM_UP} steps of each thread or child are not counted.",
        "Memory: the sum of Linux' VmRSS over the worker and its children, and the sum of their "
        "Pss, while they work.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
