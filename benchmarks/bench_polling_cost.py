"""Measure the calls to OpenAI per minute, and the age of the cached status.

A real worker and beat poll the live batches of several organizations. A stub of OpenAI counts
the calls. Some organizations have just started all their batches, which are polled most often. The
others have batches of all ages up to a day, with as many ended ones between them in OpenAI's list.
Half of the organizations receive webhooks, so their batches are polled less often.

Ten thousand batches are polled every few minutes. Therefore all intervals and ages are divided by
``--faster``, and the results are converted to the default intervals.

The old plugin calls OpenAI for each task and resync. Its calls per ``GetTask`` are counted and
multiplied by the tasks and the resyncs per minute.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import httpx2
from batchflow_workers.policy import Policy
from batchflow_workers.schedule import Conditions, until_tick_s, wait_s
from flytekitplugins.openai.batch.connector import BatchEndpointMetadata

from batchflow.jobs import Credential
from batchflow.settings import Settings
from batchflow.store import JobStore, deliveries, keys
from benchmarks.support import cores, usage
from benchmarks.support.callers import get_each, get_requests
from benchmarks.support.live_jobs import LiveJob, batch_of, make_live
from benchmarks.support.program import Program
from benchmarks.support.results import OLD, OURS, Bar, Chart, Measured, Result, percentile
from benchmarks.support.stack import Stack

_CALLS = "calls to OpenAI per minute"
_MEDIAN = "age of a status, median"
_OLDEST = "age of a status, 99th percentile"
_CPU = "worker's CPU per minute"

_YOUNG, _AGED = "just started", "of all ages"
_DAY_S = 86_400.0
#: Flyte's default.
_RESYNC_S = 30.0
#: The number of tasks for which the old plugin's calls are counted.
_OLD_TASKS = 100
_SAMPLE_EVERY_S = 2.0
_SAMPLE = 500
_BAR_LIVE = 1_000
_MIN_SAVED = 100.0

program = Program("polling_cost", "Polling: calls to OpenAI and age of the status", __doc__)
program.option(
    "--live", [1, 100, 1_000, 10_000], "numbers of live batches of an organization", several=True
)
program.option("--minutes", 8.0, "duration of the measurement, at the default intervals")
program.option("--warm-up-minutes", 2.0, "duration of the warm-up, at the default intervals")
program.option("--faster", 6.0, "factor by which all intervals are divided")


@dataclass
class PolledOrganization:
    """An organization, its live batches, and the measured ages of their status."""

    organization: str
    ages: str
    webhooks: bool
    jobs: list[LiveJob]
    stale_s: list[float] = field(default_factory=list)

    @property
    def case(self) -> str:
        """The name of the case in tables."""
        return f"{len(self.jobs):,} {self.ages}"

    @property
    def side(self) -> str:
        """The name of the side in tables."""
        return f"{OURS}, with webhooks" if self.webhooks else OURS


def measure(options: argparse.Namespace) -> Result:
    """Poll all organizations with one worker, then count the old plugin's calls."""
    with Stack() as stack:
        program.say("Starting Redis and the stub")
        stack.redis()
        openai = {"OPENAI_BASE_URL": stack.openai_stub()}
        settings = _settings(stack, options.faster)
        store = stack.store()
        program.say("Recording the batches")
        organizations = [
            _populate(store, settings, openai["OPENAI_BASE_URL"], group)
            for group in _groups(store, settings, options)
        ]
        organizations.sort(
            key=lambda group: (len(group.jobs), group.ages != _YOUNG, group.webhooks)
        )
        for group in organizations:
            _set_due(store, settings, group)
        program.say("Starting the worker and beat")
        worker = stack.worker(
            *("-Q", f"{settings.key_prefix}.poll", "--pool", "threads", "--concurrency", "16"),
            env=openai,
            measured=True,
        )
        stack.beat()
        time.sleep(options.warm_up_minutes * 60 / options.faster)
        program.say(f"Counting for {options.minutes * 60 / options.faster:g} s")
        calls, cpu_s = _calls(openai["OPENAI_BASE_URL"]), usage.cpu_s(worker.pid)
        begun_at = time.monotonic()
        ends_at = begun_at + options.minutes * 60 / options.faster
        while (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(left_s, _SAMPLE_EVERY_S))
            for group in organizations:
                group.stale_s += _ages_s(store, settings, group, options.faster)
        minutes = (time.monotonic() - begun_at) / 60 * options.faster
        used_s = (usage.cpu_s(worker.pid) - cpu_s) / minutes
        calls_after = _calls(openai["OPENAI_BASE_URL"])
        per_minute = {
            group.organization: (calls_after[group.organization] - calls[group.organization])
            / minutes
            for group in organizations
        }
        program.say("Counting the old plugin's calls")
        per_get = _calls_per_get(stack, openai)
    measured = _measured(organizations, per_minute, per_get)
    everything = sum(len(group.jobs) for group in organizations)
    measured.append(Measured(_CPU, f"all {everything:,} batches", OURS, "s", (used_s,)))
    chart = Chart(_CALLS, "Calls to OpenAI per minute, by live batches", log=True)
    return program.result(measured, _bars(measured), chart, _notes(options, per_get))


def _settings(stack: Stack, faster: float) -> Settings:
    """The defaults with shorter intervals, here and in all processes."""
    default = Settings.model_fields
    shorter = {
        name: float(default[name].default) / faster
        for name in ("poll_interval_s", "sweep_interval_s")
    }
    stack.variables |= {
        f"BATCHFLOW_{name.upper()}": f"{value:g}" for name, value in shorter.items()
    }
    return stack.settings(**shorter)


def _groups(
    store: JobStore, settings: Settings, options: argparse.Namespace
) -> Iterator[PolledOrganization]:
    """Record live batches; the young ones last, so that they are young at the start."""
    for ages in (_AGED, _YOUNG):
        for live in sorted(options.live, reverse=True):
            for webhooks in (False, True):
                name = f"org-{ages}-{live}-{webhooks}".replace(" ", "-").lower()
                day_s = _DAY_S / options.faster
                ages_s = [day_s * (n + 0.5) / live for n in range(live)] if ages == _AGED else [0.0]
                jobs = make_live(store, settings, live, organization=name, ages_s=ages_s)
                yield PolledOrganization(name, ages, webhooks, jobs)


def _populate(
    store: JobStore, settings: Settings, base_url: str, group: PolledOrganization
) -> PolledOrganization:
    """Add the batches to the stub."""
    if group.webhooks:
        # As after a webhook.
        store.run(deliveries.mark_webhooks_active(str(Credential(organization=group.organization))))
    entries = [(j.batch_id, j.job_request.job_id, j.created_at, "in_progress") for j in group.jobs]
    if group.ages == _AGED:
        entries += [(f"{i}_ended", f"{job}-2", at, "completed") for i, job, at, _ in entries]
    entries.sort(key=lambda entry: -entry[2])
    url = f"{base_url.removesuffix('/v1')}/stub/batches/{group.organization}"
    httpx2.put(url, json=entries, timeout=60).raise_for_status()
    return group


def _set_due(store: JobStore, settings: Settings, group: PolledOrganization) -> None:
    """Set when the batches were polled and are due: just now for young ones."""
    credential = str(Credential(organization=group.organization))
    pipeline: Any = store.redis.pipeline(transaction=False)
    for job in group.jobs:
        now_s = time.time()
        conditions = Conditions(settings, Policy(), now_s, group.webhooks)
        longest_s = wait_s(batch_of(job, "in_progress"), conditions)
        due_s = now_s + until_tick_s(longest_s, settings.poll_interval_s, credential, now_s)
        checked_at = due_s - longest_s if group.ages == _AGED else now_s
        job_id = job.job_request.job_id
        record = keys.full(settings.key_prefix, keys.job(job_id))
        pipeline.hset(record, "checked_at", f"{checked_at:.6f}")
        pipeline.zadd(keys.full(settings.key_prefix, keys.DUE), {job_id: due_s})
    pipeline.execute()


def _ages_s(
    store: JobStore, settings: Settings, group: PolledOrganization, faster: float
) -> list[float]:
    """The ages of the status of a sample of the batches, at the default intervals."""
    redis: Any = store.redis
    sample = random.sample(group.jobs, min(_SAMPLE, len(group.jobs)))
    pipeline = redis.pipeline(transaction=False)
    for job in sample:
        pipeline.hget(
            keys.full(settings.key_prefix, keys.job(job.job_request.job_id)), "checked_at"
        )
    now_s = time.time()
    return [(now_s - float(checked_at)) * faster for checked_at in pipeline.execute()]


def _calls(base_url: str) -> dict[str, int]:
    """Calls by organization."""
    answer = httpx2.get(f"{base_url.removesuffix('/v1')}/stub/calls", timeout=30)
    calls: Mapping[str, Mapping[str, int]] = answer.raise_for_status().json()
    return {name: sum(counts.values()) for name, counts in calls.items()}


def _calls_per_get(stack: Stack, openai: Mapping[str, str]) -> float:
    """The old plugin's calls to OpenAI for one ``GetTask``."""
    address = stack.connector("flytekitplugins.openai", name="old-plugin", env=openai)
    organization = "org-old"
    metas = [
        BatchEndpointMetadata(organization, f"batch_{number}").encode()
        for number in range(_OLD_TASKS)
    ]
    with cores.on(measured=False):
        load = asyncio.run(get_each(address, get_requests(metas, "openai-batch")))
    if load.failed:
        raise RuntimeError(f"{len(load.failed)} calls failed, the first with {load.failed[0]}")
    return _calls(openai["OPENAI_BASE_URL"])[organization] / len(metas)


def _measured(
    organizations: Sequence[PolledOrganization], per_minute: Mapping[str, float], per_get: float
) -> list[Measured]:
    measured = []
    for group in organizations:
        calls, case, side = per_minute[group.organization], group.case, group.side
        measured.append(Measured(_CALLS, case, side, "", (calls,)))
        for figure, share in ((_MEDIAN, 0.5), (_OLDEST, 0.99)):
            stale_s = percentile(group.stale_s, share)
            measured.append(Measured(figure, case, side, "s", (stale_s,)))
        if group.webhooks:
            old = per_get * len(group.jobs) * 60 / _RESYNC_S
            measured.append(Measured(_CALLS, case, OLD, "", (old,), computed=True))
            for figure, share in ((_MEDIAN, 0.5), (_OLDEST, 0.99)):
                stale_s = _RESYNC_S * share
                measured.append(Measured(figure, case, OLD, "s", (stale_s,), computed=True))
    return measured


def _bars(measured: Sequence[Measured]) -> list[Bar]:
    calls = {(m.case, m.side): m.median for m in measured if m.figure == _CALLS}
    bars = []
    for ages in (_YOUNG, _AGED):
        case = f"{_BAR_LIVE:,} {ages}"
        if (case, OURS) not in calls:
            continue
        ours, old = calls[case, OURS], calls[case, OLD]
        bars.append(
            Bar(
                f"fewer OpenAI calls than the old plugin, polling only, {case}",
                old / ours if ours else old,
                _MIN_SAVED,
                True,
                "times",
                f"{ours:,.0f} against {old:,.0f} per minute",
            )
        )
    return bars


def _notes(options: argparse.Namespace, per_get: float) -> list[str]:
    return [
        f"Default settings, one worker process with 16 threads, counted for {options.minutes:g} "
        f"minutes after {options.warm_up_minutes:g}. One worker polled all organizations at once, "
        "each with its own credential.",
        f"All intervals and ages were divided by {options.faster:g}, and all results converted "
        "back. Durations that do not scale, such as those of calls, make a status look older.",
        f"'{_YOUNG}': all batches were created when the worker started. '{_AGED}': created evenly "
        "over the last 24 hours, with as many ended batches between them in OpenAI's list.",
        "With webhooks: one arrived for the organization within the last six hours, so batches in "
        "progress are polled less often.",
        f"The old plugin's figures are computed: {per_get:g} calls per GetTask, counted for "
        f"{_OLD_TASKS} tasks, and Flyte's resync of {_RESYNC_S:g} s. Flyte adds that resync to the "
        "age of Batchflow's status, too.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
