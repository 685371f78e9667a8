"""A hundred thousand jobs in Redis: every request reads a bounded part of them."""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import httpx2
import pytest

from batchflow.settings import Settings
from batchflow.states import JobKind, JobState
from batchflow.store import connect, index
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.population import populate
from tests.kit.processes import RedisServer

JOBS = 100_000
#: The limit on what Redis sends per request. A search reads about 1 MB; all records have 100 MB.
MAX_READ_BYTES = 1_500_000
#: The limit on the fastest of several requests; reading all records takes seconds.
MAX_RESPONSE_S = 1.0
REPETITIONS = 5
#: Redis commands that read all keys, or a whole one.
SCANS = {"keys", "scan", "sscan", "hscan", "zscan", "zrangebyscore", "sort", "sort_ro"}

PATHS = [
    "/",
    "/?state=failed&text=größe",
    "/?text=no+such+text",
    "/api/summary",
    "/api/jobs",
    "/api/jobs?limit=200",
    *(f"/api/jobs?state={state}" for state in JobState),
    *(f"/api/jobs?kind={kind}" for kind in JobKind),
    "/api/jobs?state=queued&state=running",
    "/api/jobs?state=failed&state=retryable&kind=batch&organization=org-beta",
    "/api/jobs?organization=org-alpha",
    "/api/jobs?organization=org-nobody",
    "/api/jobs?execution=run-777",
    "/api/jobs?execution=project-1/dev/run-777/n1-batch",
    "/api/jobs?execution=run-777&organization=org-alpha",
    "/api/jobs?text=waiting",
    "/api/jobs?text=no+such+text",
    "/api/jobs?text=no+such+text&state=succeeded",
    "/api/jobs?text=no+such+text&organization=org-alpha",
    "/api/jobs?text=file-in99997",
]


def fill(settings: Settings, serials: range) -> None:
    store = connect(settings)
    with store.redis:
        populate(store, serials)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with many jobs, and a Redis of its own, whose statistics count nothing else."""
    with RedisServer(tmp_path_factory.mktemp("scale")) as redis:
        settings = Settings.model_validate({"redis_url": redis.url})
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, spawning) as workers:
            halves = (range(JOBS // 2), range(JOBS // 2, JOBS))
            list(workers.map(fill, [settings] * 2, halves))
        with running_gateway(settings) as gateway:
            counts = gateway.store.run(index.counts())
            assert sum(counts.values()) == JOBS
            assert len(counts) == len(JobKind) * len(JobState)
            yield gateway


def calls(gateway: Gateway) -> dict[str, int]:
    """The number of calls of each Redis command."""
    stats: Any = gateway.store.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


def sent_bytes(gateway: Gateway) -> int:
    """The number of bytes that Redis has sent to its clients."""
    stats: Any = gateway.store.redis.info("stats")
    return int(stats["total_net_output_bytes"])


def fastest_s(client: httpx2.Client, path: str) -> float:
    """The duration of the fastest of several requests, which a loaded machine does not distort."""
    durations_s = []
    for _ in range(REPETITIONS):
        began_s = time.perf_counter()
        assert client.get(path).status_code == 200
        durations_s.append(time.perf_counter() - began_s)
    return min(durations_s)


@pytest.mark.parametrize("path", PATHS)
def test_a_request_reads_a_bounded_part(fleet: Gateway, path: str) -> None:
    with fleet.client() as client:
        assert client.get(path).status_code == 200
        calls_before, sent_before = calls(fleet), sent_bytes(fleet)
        duration_s = fastest_s(client, path)
        sent = sent_bytes(fleet) - sent_before
        used = {name for name, count in calls(fleet).items() if count > calls_before.get(name, 0)}
    assert not used & SCANS
    assert sent / REPETITIONS < MAX_READ_BYTES
    assert duration_s < MAX_RESPONSE_S


def test_the_last_pages_are_as_fast_as_the_first(fleet: Gateway) -> None:
    oldest = fleet.store.run(index.oldest_entry(JobKind.BATCH, JobState.QUEUED))
    [newest] = fleet.store.run(
        index.entries(index.IndexScope.of(), JobKind.BATCH, JobState.FAILED, limit=1)
    )
    assert oldest
    middle_s = (float(oldest.time) + float(newest.time)) / 2
    with fleet.client() as client:
        for position_s in (middle_s, float(oldest.time) + 0.1):
            path = f"/api/jobs?after={position_s:.6f}+{oldest.job_id}"
            assert fastest_s(client, path) < MAX_RESPONSE_S
            assert len(client.get(path).json()["jobs"]) == 50


def test_a_search_without_matches_advances_page_by_page(fleet: Gateway) -> None:
    pages, after = 0, ""
    with fleet.client() as client:
        while after is not None and pages < 20:
            parameters = {"text": "no such text", "after": after}
            page = client.get("/api/jobs", params=parameters).json()
            assert page["jobs"] == []
            after, pages = page["next"], pages + 1
    assert pages == 20, "each page reads two thousand of a hundred thousand jobs"
