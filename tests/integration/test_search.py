"""The search for what earlier tries have created: shared by the jobs of an account, resumable."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from batchflow_workers.policy import Policy

from batchflow.jobs import BatchSpec, generation_id, random_job_id
from batchflow.openai_client import client
from batchflow.states import JobState
from batchflow.store import leases, records
from tests.kit.job_requests import a_job_request
from tests.kit.processes import until
from tests.kit.workers import MakeWorkers, Workers, lines

CREATE = ["batches.create"]


@pytest.fixture
def file_id(workers: Workers) -> str:
    return workers.emulator.upload(workers.organization, lines())


def made(workers: Workers, job_id: str, file_id: str, **parameters: Any) -> str:
    """A batch that names a job, made without Batchflow; returns its id."""
    arguments: dict[str, Any] = {
        "completion_window": "24h",
        "endpoint": "/v1/chat/completions",
        "input_file_id": file_id,
        "metadata": {"batchflow_job": job_id},
    }
    with workers.emulator.sdk(workers.organization) as sdk:
        return sdk.batches.create(**arguments | parameters).id


def rebuilt(workers: Workers, job_id: str, file_id: str, **fields: Any) -> str:
    """A job whose record Redis had lost."""
    spec = BatchSpec(credential=workers.credential(), input_file_id=file_id, config={})
    job_request = a_job_request(job_id=job_id, spec=spec, **fields)
    workers.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    workers.settle(job_id)
    return job_id


def second_attempt(workers: Workers, job_id: str, file_id: str, **fields: Any) -> str:
    """A job of a later attempt, after Redis was emptied."""
    spec = BatchSpec(credential=workers.credential(), input_file_id=file_id, config={})
    workers.created(a_job_request(job_id=job_id, spec=spec, attempt=1, **fields))
    workers.settle(job_id)
    return job_id


# One search for all


def test_all_jobs_after_a_loss_share_one_pass(
    workers: Workers, file_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 5)
    jobs = {workers.submitted(file_id=file_id): "" for _ in range(40)}
    jobs = {job_id: str(workers.job(job_id).batch_id) for job_id in jobs}
    workers.empty_redis()
    for job_id in jobs:
        rebuilt(workers, job_id, file_id)
    newest_first = list(reversed(jobs))
    with workers.calls(batches_list=40 // 5, batches_create=0):
        workers.step(*newest_first)
    assert {job_id: workers.job(job_id).batch_id for job_id in jobs} == jobs


def test_a_search_that_found_nothing_answers_for_all_jobs(workers: Workers, file_id: str) -> None:
    workers.emulator.outage(operations=CREATE)
    lost = [workers.batch(file_id) for _ in range(5)]
    for job_id in lost:
        workers.step(job_id)
        workers.end_backoff()
    workers.emulator.end_outages()
    with workers.calls(batches_list=1, batches_create=5):
        workers.step(*lost)
    assert len(workers.batches()) == 5


def test_a_search_does_not_answer_for_a_later_try(workers: Workers, file_id: str) -> None:
    workers.emulator.outage(operations=CREATE, count=1)
    job_id = workers.batch(file_id)
    workers.step(job_id)
    workers.end_backoff()
    workers.emulator.outage(answer="drop", after_acting=True, operations=CREATE, count=1)
    with workers.calls(batches_list=1, batches_create=1):
        workers.step(job_id)
    workers.end_backoff()
    with workers.calls(batches_list=1, batches_create=0):
        workers.step(job_id)
    assert [batch["id"] for batch in workers.batches()] == [workers.job(job_id).batch_id]


def test_jobs_wait_for_the_search_of_another_worker(workers: Workers, file_id: str) -> None:
    job_id, other = (rebuilt(workers, random_job_id(), file_id) for _ in range(2))
    lease = f"search:batches:{workers.credential()}"
    workers.store.run(leases.acquire(lease, "another worker", ttl_s=60))
    with workers.calls(batches_list=0, batches_create=0):
        workers.step(job_id)
    job = workers.job(job_id)
    assert (job.state, job.message) == (
        JobState.RUNNING,
        "Checking whether OpenAI already has this batch",
    )
    assert 0 < workers.due_in_s(job_id) <= 5
    workers.store.run(leases.release(lease, "another worker"))
    with workers.calls(batches_list=1, batches_create=1):
        workers.step(other)
    with workers.calls(batches_list=0, batches_create=1):
        workers.step(job_id)


def test_many_workers_at_once_share_one_pass(
    workers: Workers, file_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 5)
    workers.runtime = replace(workers.runtime, policy=Policy(busy_search_s=0))
    jobs = {workers.submitted(file_id=file_id): "" for _ in range(40)}
    jobs = {job_id: str(workers.job(job_id).batch_id) for job_id in jobs}
    workers.empty_redis()
    for job_id in jobs:
        rebuilt(workers, job_id, file_id)

    def found(job_id: str) -> bool:
        workers.step(job_id)
        return bool(workers.job(job_id).batch_id)

    with workers.calls(batches_list=40 // 5, batches_create=0), ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(until, partial(found, job_id), job_id) for job_id in jobs]
        for wait in waits:
            wait.result()
    assert {job_id: workers.job(job_id).batch_id for job_id in jobs} == jobs
    assert {workers.job(job_id).message for job_id in jobs} == {""}


def test_a_search_finds_the_batch_of_a_job_that_is_to_be_cancelled(
    make_workers: MakeWorkers,
) -> None:
    workers = make_workers(poll_interval_s=600)
    jobs = [workers.batch() for _ in range(3)]
    workers.emulator.outage(answer="drop", after_acting=True, operations=CREATE, count=3)
    for job_id in jobs:
        workers.step(job_id)
        workers.end_backoff()
    for job_id in jobs:
        workers.runtime.update(job_id, "test", due_in_s=1_000)
    workers.change(jobs[1], cancel_requested=1)
    workers.step(jobs[0])
    assert [workers.due_in_s(job_id) <= 0 for job_id in jobs] == [False, True, False]


# Long lists


class LongList:
    """OpenAI with a list of batches that has many pages, and none for new ones."""

    def __init__(self, pages: int, *, named: dict[int, tuple[str, str]] | None = None) -> None:
        self.pages = pages
        #: Page -> the job that its batch names, and the batch's input file.
        self.named = named or {}
        #: The cursor of each list call, and what happens at it.
        self.calls: list[str | None] = []
        self.at_call: Callable[[int], None] = lambda _: None
        self.created: list[dict[str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            self.created.append(json.loads(request.content))
            return httpx2.Response(200, json=self.batch("batch_new", "none", "file-1"))
        after = request.url.params.get("after")
        self.calls.append(after)
        self.at_call(len(self.calls))
        number = int(after.removeprefix("batch_")) + 1 if after else 0
        if number % 50 == 49 and self.calls.count(after) == 1:
            return httpx2.Response(500, json={"error": {"message": "Try again."}})
        batch = self.batch(f"batch_{number}", *self.named.get(number, ("other", "file-1")))
        data = [batch] if number < self.pages else []
        body = {"object": "list", "data": data, "has_more": number + 1 < self.pages}
        return httpx2.Response(200, json=body)

    def batch(self, batch_id: str, job_id: str, file_id: str) -> dict[str, Any]:
        return {
            "id": batch_id,
            "object": "batch",
            "completion_window": "24h",
            "endpoint": "/v1/chat/completions",
            "input_file_id": file_id,
            "status": "in_progress",
            "created_at": int(time.time()),
            "metadata": {"batchflow_job": job_id},
        }


class Killed(BaseException):
    """Ends a worker in the middle of a step."""


def test_a_search_of_many_pages_with_errors_ends(workers: Workers) -> None:
    jobs = [random_job_id() for _ in range(3)]
    server = LongList(300, named={200: (jobs[1], "file-1"), 290: (jobs[2], "file-1")})
    workers = workers.answered_by(server)
    for job_id in jobs:
        rebuilt(workers, job_id, "file-1")
    for _ in range(12):
        for job_id in jobs:
            workers.step(job_id)
            workers.end_backoff()
    assert [workers.job(job_id).batch_id for job_id in jobs] == [
        "batch_new",
        "batch_200",
        "batch_290",
    ]
    assert len(server.calls) == 300 + 6
    assert len(server.created) == 1


def test_a_search_continues_after_its_worker_was_killed(workers: Workers) -> None:
    job_id = random_job_id()
    server = LongList(30, named={20: (job_id, "file-1")})
    workers = workers.answered_by(server)
    rebuilt(workers, job_id, "file-1")

    def kill(call: int) -> None:
        if call == 11:
            raise Killed

    server.at_call = kill
    with pytest.raises(Killed):
        workers.step(job_id)
    workers.step(job_id)
    assert workers.job(job_id).batch_id == "batch_20"
    assert server.calls[10:12] == ["batch_9", "batch_9"]


def test_a_long_search_lets_its_worker_do_other_things(workers: Workers) -> None:
    server = LongList(3)
    workers = workers.answered_by(server)
    workers.runtime = replace(workers.runtime, policy=Policy(longest_search_s=0))
    job_id = rebuilt(workers, random_job_id(), "file-1")
    for calls in (1, 2, 3):
        workers.step(job_id)
        assert len(server.calls) == calls
        assert workers.due_in_s(job_id) <= 0
        assert workers.job(job_id).message == "Checking whether OpenAI already has this batch"
    workers.step(job_id)
    assert (len(server.calls), len(server.created)) == (4, 1)


def test_a_search_starts_again_if_its_position_was_deleted(workers: Workers) -> None:
    server = LongList(3)

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.params.get("after") == "batch_gone":
            return httpx2.Response(404, json={"error": {"message": "No such batch."}})
        return server(request)

    workers = workers.answered_by(answer)
    job_id = rebuilt(workers, random_job_id(), "file-1")
    server.at_call = lambda call: kill_at(call, 2)
    with pytest.raises(Killed):
        workers.step(job_id)
    redis: Any = workers.store.redis
    search = workers.redis_key(f"search:batches:{workers.credential()}")
    redis.hset(search, "after", "batch_gone")
    workers.step(job_id)
    assert server.calls[2:] == [None, "batch_0", "batch_1"]
    assert len(server.created) == 1


def kill_at(call: int, when: int) -> None:
    if call == when:
        raise Killed


# What is a match


@pytest.mark.parametrize(
    "other", ["organization", "input file", "endpoint"], ids=lambda other: f"another {other}"
)
def test_a_batch_that_only_names_the_job_is_neither_taken_nor_cancelled(
    workers: Workers, file_id: str, other: str
) -> None:
    parameters: dict[str, Any] = {}
    config: dict[str, Any] = {}
    organization = workers.organization
    if other == "organization":
        organization += "-2"
    elif other == "endpoint":
        config["endpoint"] = "/v1/embeddings"
    else:
        parameters["input_file_id"] = workers.emulator.upload(organization, lines())
    credential = workers.credential().model_copy(update={"organization": organization})
    spec = BatchSpec(credential=credential, input_file_id=file_id, config=config)
    job_id = random_job_id()
    foreign = made(workers, job_id, file_id, **parameters)
    workers.store.run(
        records.create(a_job_request(job_id=job_id, spec=spec), due_in_s=0, rebuilt=True)
    )
    workers.settle(job_id)
    searching = rebuilt(workers, random_job_id(), file_id)
    workers.step(searching)
    assert workers.job(job_id).batch_id is None
    if other != "organization":
        workers.step(job_id)
        assert workers.job(job_id).batch_id not in (None, foreign)
    workers.poll(searching, workers.submitted(file_id=file_id))
    [batch] = [batch for batch in workers.batches() if batch["id"] == foreign]
    assert batch["status"] == "in_progress"


def test_a_later_attempt_takes_the_live_batch_of_another_generation(
    workers: Workers, file_id: str
) -> None:
    first = random_job_id()
    live = made(workers, generation_id(first, 2), file_id)
    second_attempt(workers, first, file_id)
    with workers.calls(batches_create=0):
        workers.step(first)
    assert workers.job(first).batch_id == live


def test_a_later_generation_takes_a_live_batch_that_the_search_of_another_job_finds(
    workers: Workers, file_id: str
) -> None:
    first = random_job_id()
    live = made(workers, first, file_id)
    third = rebuilt(workers, generation_id(first, 3), file_id)
    workers.step(rebuilt(workers, random_job_id(), file_id))
    assert workers.job(third).batch_id == live


@pytest.mark.parametrize("status", ["cancelled", "expired", "failed"])
@pytest.mark.parametrize("generation", [1, 2])
def test_a_later_attempt_does_not_take_a_batch_that_ended_badly(
    workers: Workers, file_id: str, status: str, generation: int
) -> None:
    first = random_job_id()
    ended = made(workers, generation_id(first, generation), file_id)
    workers.emulator.end(ended, status)
    second_attempt(workers, first, file_id)
    with workers.calls(batches_create=1):
        workers.step(first)
    assert workers.job(first).batch_id not in (None, ended)
    assert workers.job(first).state is JobState.RUNNING


def test_a_rebuilt_record_takes_its_batch_that_ended_badly(workers: Workers, file_id: str) -> None:
    job_id = random_job_id()
    made(workers, generation_id(job_id, 2), file_id)
    workers.emulator.end(made(workers, generation_id(job_id, 2), file_id), "expired")
    ended = made(workers, job_id, file_id)
    workers.emulator.end(ended, "cancelled")
    rebuilt(workers, job_id, file_id)
    other = rebuilt(workers, generation_id(job_id, 2), file_id)
    with workers.calls(batches_create=0):
        workers.step(other, job_id)
    job = workers.job(job_id)
    assert (job.state, job.batch_id) == (JobState.FAILED, ended)


def test_a_live_batch_is_better_than_one_that_ended_badly(workers: Workers, file_id: str) -> None:
    job_id = random_job_id()
    live = made(workers, job_id, file_id)
    workers.emulator.end(made(workers, job_id, file_id), "cancelled")
    rebuilt(workers, job_id, file_id)
    workers.step(job_id)
    assert workers.job(job_id).batch_id == live


def test_a_try_whose_reply_was_lost_has_the_batch_that_failed(
    workers: Workers, file_id: str
) -> None:
    workers.emulator.outage(answer="drop", after_acting=True, operations=CREATE, count=1)
    job_id = workers.batch(file_id)
    workers.step(job_id)
    workers.end_backoff()
    [batch] = workers.batches()
    workers.emulator.end(batch["id"], "failed")
    with workers.calls(batches_create=0):
        workers.step(job_id)
    job = workers.job(job_id)
    assert (job.state, job.batch_id) == (JobState.FAILED, batch["id"])


# Files


def uploaded(workers: Workers, name: str) -> str:
    with workers.emulator.sdk(workers.organization) as sdk:
        return sdk.files.create(file=(name, lines()), purpose="batch").id


def test_all_uploads_after_a_loss_share_one_pass(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 5)
    (tmp_path / "in.jsonl").write_bytes(lines())
    jobs = [workers.upload(f"{tmp_path}/in.jsonl") for _ in range(10)]
    files = {job_id: uploaded(workers, f"{job_id}.jsonl") for job_id in jobs}
    for job_id in jobs:
        workers.change(job_id, tries=1, settled_at=0)
    with workers.calls(files_list=2, files_create=0):
        workers.step(*reversed(jobs))
    assert {job_id: workers.job(job_id).input_file_id for job_id in jobs} == files
