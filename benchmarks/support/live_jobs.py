"""Active jobs in Redis, written with the store's commands."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from batchflow_workers.observation import Observation, classify
from batchflow_workers.policy import Policy
from batchflow_workers.reconcile import change
from batchflow_workers.schedule import Conditions
from openai.types import Batch

from batchflow.job_requests.identity import make_job_request
from batchflow.jobs import BatchSpec, Credential, Job, JobRequest
from batchflow.queue import LOST_MESSAGE_CHECK_S
from batchflow.settings import Settings
from batchflow.store import JobStore, keys, records
from batchflow.store.command import Command
from batchflow.store.index import IndexScope
from benchmarks.support.openai_stub import batch_json

T = TypeVar("T")

#: The config of the batch tasks.
CONFIG = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
#: The model that OpenAI reports for the batches.
MODEL = "gpt-4o-mini-2024-07-18"
#: Jobs written in one round trip.
_CHUNK = 500
_THREADS = 3


@dataclass(frozen=True)
class LiveJob:
    """A job whose batch is in progress at OpenAI."""

    job_request: JobRequest
    batch_id: str
    #: When the batch was created, epoch seconds.
    created_at: int


def make_live(
    store: JobStore,
    settings: Settings,
    count: int,
    *,
    organization: str | None,
    ages_s: Sequence[float] = (0.0,),
    first: int = 0,
) -> list[LiveJob]:
    """Record ``count`` jobs whose batches are in progress.

    The jobs take their ages from ``ages_s`` in turn; ``first`` is the number of the first job.
    """
    now_s = store.run(records.time())
    # The store must be old, or the new records would be treated as rebuilt ones.
    store.redis.set(keys.full(settings.key_prefix, keys.BORN), "0", nx=True)
    jobs = [
        _job(number, organization, int(now_s - ages_s[number % len(ages_s)]))
        for number in range(first, first + count)
    ]
    # Redis and this process work concurrently.
    with ThreadPoolExecutor(_THREADS) as pool:
        for written in [
            pool.submit(_write, store, settings, chunk) for chunk in _chunks(jobs, _CHUNK)
        ]:
            written.result()
    return jobs


def _write(store: JobStore, settings: Settings, jobs: list[LiveJob]) -> None:
    made = store.run_all(
        [records.create(live.job_request, due_in_s=LOST_MESSAGE_CHECK_S) for live in jobs]
    )
    # Set the creation times in the records and the index to those of the batches.
    index = keys.full(settings.key_prefix, keys.INDEX)
    pipeline: Any = store.redis.pipeline(transaction=False)
    for live, created in zip(jobs, made, strict=True):
        job = _known(created.job)
        key = keys.full(settings.key_prefix, keys.job(job.id))
        pipeline.hset(key, "created_at", f"{live.created_at}.000000")
        for scope in _scopes(job):
            listed = f"{scope} {job.kind} {job.state}"
            pipeline.zrem(index, f"{listed} {job.created_at.timestamp():.6f} {job.id}")
            pipeline.zadd(index, {f"{listed} {live.created_at}.000000 {job.id}": 0})
    pipeline.execute()
    store.run_all([records.begin(live.job_request.job_id) for live in jobs])
    for status in ("validating", "in_progress"):
        store.run_all(
            [
                _observed(_known(created.job), batch_of(live, status), settings)
                for live, created in zip(jobs, made, strict=True)
            ]
        )


def _observed(job: Job, batch: Batch, settings: Settings) -> Command[records.Updated]:
    """Return the command that a poll, or the step that created the batch, would run."""
    new = batch.status == "validating"
    conditions = Conditions(settings, Policy(), time.time())
    found = classify(job, batch, policy=conditions.policy, now_s=conditions.now_s)
    source = "submit" if new else "poll"
    return change(Observation(job, batch, new=new), found, source, conditions)


def credential_of(organization: str | None) -> Credential:
    """The credential of an organization with the default key."""
    return Credential(organization=organization)


def _job(number: int, organization: str | None, created_at: int) -> LiveJob:
    spec = BatchSpec(
        credential=credential_of(organization),
        input_file_id="file-input-0123456789abcdef",
        config=CONFIG,
    )
    unique = hashlib.md5(f"{organization} {number}".encode(), usedforsecurity=False).hexdigest()
    # The lengths are those of Flyte's generated names and OpenAI's ids.
    name = f"a{unique[:19]}"
    job_request = make_job_request(
        spec,
        execution=f"shop/development/{name}/n0",
        output_prefix=f"s3://flyte-data/metadata/propeller/shop-development-{name}/n0/data/0",
        attempt=0,
    )
    return LiveJob(job_request, f"batch_{unique}", created_at)


def batch_of(live: LiveJob, status: str) -> Batch:
    """The batch of a job as OpenAI returns it."""
    shown = batch_json(live.batch_id, live.job_request.job_id, live.created_at, status)
    return Batch.model_validate(shown | {"model": MODEL})


def _scopes(job: Job) -> set[IndexScope]:
    return {
        IndexScope.of(),
        IndexScope.of(organization=job.organization),
        IndexScope.of(execution=job.execution.split("/")[2]),
    }


def _known(job: Job | None) -> Job:
    if job is None:
        raise RuntimeError("cannot read a record that was just created")
    return job


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
