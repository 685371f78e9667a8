"""A hundred thousand jobs in Redis: each question is answered quickly, and none looks at all."""

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from batchflow.settings import Settings
from batchflow.states import JobKind, JobState
from batchflow.store import connect, index
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.population import populate
from tests.kit.processes import RedisServer

JOBS = 100_000
#: How long the page and the list may take.
ANSWER_S = 0.3
TRIES = 5
#: What Redis sends for an answer: a search reads about 1 MB; all records have a hundred times that.
MOST_READ_BYTES = 1_500_000
#: What reads all keys, or all of one.
SCANS = {"keys", "scan", "sscan", "hscan", "zscan", "zrangebyscore", "sort", "sort_ro"}

QUESTIONS = [
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
    """A gateway with many jobs, in a Redis of its own: what it counts is ours alone."""
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
    """How often Redis has carried out each command."""
    stats: Any = gateway.store.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


def sent_bytes(gateway: Gateway) -> int:
    """What Redis has sent to its clients."""
    stats: Any = gateway.store.redis.info("stats")
    return int(stats["total_net_output_bytes"])


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_takes_no_longer_for_many_jobs(fleet: Gateway, question: str) -> None:
    with fleet.client() as client:
        assert client.get(question).status_code == 200
        calls_before, sent_before = calls(fleet), sent_bytes(fleet)
        took_s = []
        for _ in range(TRIES):
            began_s = time.perf_counter()
            answer = client.get(question)
            took_s.append(time.perf_counter() - began_s)
            assert answer.status_code == 200
        sent = sent_bytes(fleet) - sent_before
        used = {name for name, number in calls(fleet).items() if number > calls_before.get(name, 0)}
    assert not used & SCANS
    assert sent / TRIES < MOST_READ_BYTES
    assert statistics.median(took_s) < ANSWER_S, took_s


def test_paging_is_as_quick_at_the_far_end(fleet: Gateway) -> None:
    oldest = fleet.store.run(index.oldest_entry(JobKind.BATCH, JobState.QUEUED))
    newest = fleet.store.run(
        index.entries(index.IndexScope.of(), JobKind.BATCH, JobState.FAILED, limit=1)
    )
    assert oldest
    middle_s = (float(oldest.time) + float(newest[0].time)) / 2
    for place_s in (middle_s, float(oldest.time) + 0.1):
        after = f"{place_s:.6f} {oldest.job_id}"
        with fleet.client() as client:
            client.get("/api/jobs", params={"after": after})
            began_s = time.perf_counter()
            page = client.get("/api/jobs", params={"after": after}).json()
            assert time.perf_counter() - began_s < ANSWER_S
        assert len(page["jobs"]) == 50


def test_a_search_through_all_of_them_ends(fleet: Gateway) -> None:
    pages, after = 0, ""
    with fleet.client() as client:
        while after is not None and pages < 20:
            asked = {"text": "no such text", "after": after}
            page = client.get("/api/jobs", params=asked).json()
            assert page["jobs"] == []
            after, pages = page["next"], pages + 1
    assert pages == 20, "each page reads two thousand of a hundred thousand jobs"
