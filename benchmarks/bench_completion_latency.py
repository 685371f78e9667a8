"""Measure the time from a batch's end at OpenAI to SUCCEEDED from ``GetTask``.

Tasks run through a real connector, worker, beat and gateway, against the emulator of OpenAI. Their
batches are ended one after the other, and each task is checked until it is SUCCEEDED. One run uses
webhooks with a polling interval of ten minutes; the other only polls, at the default interval.
"""

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.support.callers import StatusClient, create_all, get_requests
from benchmarks.support.create_requests import request_maker
from benchmarks.support.program import Program
from benchmarks.support.results import OURS, Bar, Chart, Measured, Result, percentile
from benchmarks.support.stack import API_KEY, Stack
from tests.kit.emulator import Emulator
from tests.kit.flyte_tasks import requests

_WEBHOOKS, _POLLING = "webhooks", "polling only"
_MEDIAN = "from OpenAI's end to SUCCEEDED, median"
_SLOWEST = "from OpenAI's end to SUCCEEDED, 99th percentile"
_ORGANIZATION = "org-benchmark"
_SECRET = "whsec_" + base64.b64encode(b"a secret of the benchmark").decode()
#: Long, so that only webhooks end the tasks.
_POLL_INTERVAL_S = 600.0
#: The interval of the checks after a batch has ended; the results include it.
_CHECK_INTERVAL_S = {_WEBHOOKS: 0.05, _POLLING: 0.25}
_TIMEOUT_S = 120.0
_THREADS = 16

program = Program("completion_latency", "Latency of completion", __doc__)
program.option("--batches", 200, "number of batches")
program.option("--within-s", 10.0, "time over which the batches end, with webhooks")


def measure(options: argparse.Namespace) -> Result:
    """Measure with webhooks, then without."""
    measured = []
    for mode in (_WEBHOOKS, _POLLING):
        seconds = _run(mode, options)
        case = f"{options.batches} batches"
        for figure, share in ((_MEDIAN, 0.5), (_SLOWEST, 0.99)):
            value = percentile(seconds, share)
            measured.append(Measured(figure, case, f"{OURS}, {mode}", "s", (value,)))
    title = "From a batch's end at OpenAI to SUCCEEDED from GetTask, median"
    chart = Chart(_MEDIAN, title)
    return program.result(measured, _bars(measured), chart, _notes(options))


def _run(mode: str, options: argparse.Namespace) -> list[float]:
    program.say(f"{mode}: starting all processes")
    with Stack(pinned=False) as stack:
        stack.redis()
        env = _start(stack, mode)
        address = stack.connector("batchflow_connector", name="connector", env=env)
        emulator = Emulator(env["OPENAI_BASE_URL"], API_KEY)
        try:
            metas = _create(stack, emulator, address, options.batches)
            # When polling, spread the ends over a whole interval.
            within_s = options.within_s if mode == _WEBHOOKS else stack.settings().poll_interval_s
            program.say(f"{mode}: ending {len(metas)} batches within {within_s:g} s")
            return asyncio.run(_follow(emulator, address, metas, mode, within_s))
        finally:
            emulator.close()


def _start(stack: Stack, mode: str) -> Mapping[str, str]:
    """Start all processes except the connector; return its environment."""
    env = {"OPENAI_WEBHOOK_SECRET": _SECRET}
    options: dict[str, object] = {"validating-s": 0, "in-progress-s": 86_000}
    if mode == _WEBHOOKS:
        env["BATCHFLOW_POLL_INTERVAL_S"] = f"{_POLL_INTERVAL_S:g}"
        options["webhook-url"] = f"{stack.gateway(env=env)}/webhooks/openai"
    env["OPENAI_BASE_URL"] = stack.emulator(options, env)
    stack.worker("--pool", "threads", "--concurrency", str(_THREADS), env=env)
    stack.beat(env=env)
    return env


def _create(stack: Stack, emulator: Emulator, address: str, count: int) -> list[bytes]:
    """Create the tasks and wait until all their batches are in progress."""
    file_id = emulator.upload(_ORGANIZATION, requests(1))
    make_requests = request_maker(stack.blobs, organization=_ORGANIZATION, input_file_id=file_id)
    load, metas = asyncio.run(create_all(address, make_requests(count), deadline_s=_TIMEOUT_S))
    if load.failed:
        raise RuntimeError(f"{len(load.failed)} creates failed, the first with {load.failed[0]}")
    deadline = time.monotonic() + _TIMEOUT_S
    while len(_running(emulator)) < count:
        if time.monotonic() > deadline:
            raise RuntimeError("Not all batches were created in time.")
        time.sleep(0.2)
    return metas


def _running(emulator: Emulator) -> dict[str, str]:
    """Job id -> batch id of the batches in progress."""
    return {
        batch["metadata"]["batchflow_job"]: batch["id"]
        for batch in emulator.batches(_ORGANIZATION)
        if batch["status"] == "in_progress"
    }


async def _follow(
    emulator: Emulator, address: str, metas: Sequence[bytes], mode: str, within_s: float
) -> list[float]:
    """End the batches evenly over the time; return the seconds until each task SUCCEEDED."""
    batches = _running(emulator)
    requests = get_requests(metas, "openai-batch")
    pause_s = within_s / len(metas)

    async def follow(number: int) -> float:
        await asyncio.sleep(number * pause_s)
        batch_id = batches[json.loads(metas[number])["job_id"]]
        ended_at = time.perf_counter()
        ending = asyncio.create_task(asyncio.to_thread(emulator.end, batch_id))
        while await status_client.phase(requests[number]) != "SUCCEEDED":
            if time.perf_counter() > ended_at + _TIMEOUT_S:
                raise RuntimeError(f"The task of {batch_id} did not end in time.")
            await asyncio.sleep(_CHECK_INTERVAL_S[mode])
        succeeded_at = time.perf_counter()
        await ending
        return succeeded_at - ended_at

    async with StatusClient(address) as status_client:
        return await asyncio.gather(*(follow(number) for number in range(len(metas))))


def _bars(measured: Sequence[Measured]) -> list[Bar]:
    found = {m.figure: m.median for m in measured if m.side == f"{OURS}, {_WEBHOOKS}"}
    return [
        Bar("from OpenAI's end to `SUCCEEDED`, webhooks, median", found[_MEDIAN], 1.0, False, "s"),
        Bar(
            "from OpenAI's end to `SUCCEEDED`, webhooks, 99th percentile",
            found[_SLOWEST],
            2.0,
            False,
            "s",
        ),
    ]


def _notes(options: argparse.Namespace) -> list[str]:
    return [
        "All processes shared the cores: emulator, gateway, worker, beat, connector, Redis, "
        "client.",
        f"With webhooks, the polling interval is {_POLL_INTERVAL_S:g} s and the batches end within "
        f"{options.within_s:g} s. Polling only is measured for young batches at the default "
        "interval, and they end evenly over one interval. Old batches are polled up to eight times "
        "less often.",
        "The time starts when the emulator is asked to end a batch. A task is then checked every "
        f"{_CHECK_INTERVAL_S[_WEBHOOKS]:g} s (webhooks) or "
        f"{_CHECK_INTERVAL_S[_POLLING]:g} s (polling), which the results include. Flyte's "
        "interval is 30 s.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
