"""The submit step: one batch per job, whatever OpenAI answers."""

import time
from typing import Any

import httpx2
import pytest

from batchflow.openai_client import client
from batchflow.states import JobState, Phase
from batchflow.store import records
from tests.kit.emulator import Emulator
from tests.kit.job_requests import a_job_request
from tests.kit.workers import KEY, MakeWorkers, Workers

CREATE = ["batches.create"]
WAITING = "Waiting to call OpenAI again. "
LIVE = (JobState.QUEUED, JobState.RUNNING)


@pytest.fixture
def workers(make_workers: MakeWorkers) -> Workers:
    """Workers whose organization already has a batch that belongs to no job."""
    workers = make_workers()
    workers.add_foreign_batch()
    return workers


def test_submit_creates_the_batch(workers: Workers) -> None:
    job_id = workers.batch()
    with workers.calls(batches_create=1, batches_list=0):
        workers.step(job_id)
        workers.step(job_id)  # A repeated message.
    [batch] = workers.batches()
    assert batch["metadata"] == {"batchflow_job": job_id}
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    job = workers.job(job_id)
    assert (job.state, job.batch_id, job.source) == (JobState.RUNNING, batch["id"], "submit")
    assert workers.store.run(records.find_job(batch["id"])) == job_id


def test_a_batch_from_beginning_to_end(workers: Workers) -> None:
    job_id = workers.submitted()
    batch_id = str(workers.job(job_id).batch_id)
    workers.emulator.end(batch_id)
    workers.poll(job_id)
    job = workers.job(job_id)
    assert (job.state, job.total, job.completed, job.failed) == (JobState.SUCCEEDED, 3, 3, 0)
    assert (job.model, job.message) == ("gpt-test", "")
    assert job.result is not None
    assert job.result["output_file_id"] == job.output_file_id
    assert job.result["metadata"] == {"batchflow_job": job_id}


def test_a_refused_batch_fails_with_openais_message(workers: Workers) -> None:
    job_id = workers.batch("file-unknown")
    workers.step(job_id)
    job = workers.job(job_id)
    assert (job.state, job.message) == (JobState.FAILED, "No such File object: file-unknown")
    assert not workers.batches()


@pytest.mark.parametrize(
    ("outage", "message", "known"),
    [
        ({"status": 503}, "OpenAI returned HTTP 503: The server is currently", False),
        ({"status": 500, "after_acting": True}, "OpenAI returned HTTP 500", False),
        ({"status": 408}, "OpenAI returned HTTP 408", False),
        ({"status": 429}, "OpenAI returned HTTP 429: Rate limit reached.", True),
        ({"answer": "garbage"}, "OpenAI's response can't be read", False),
        ({"answer": "garbage", "after_acting": True}, "OpenAI's response can't be read", False),
        ({"answer": "cut"}, "OpenAI", False),
        ({"answer": "drop"}, "OpenAI can't be reached.", False),
        ({"answer": "drop", "after_acting": True}, "OpenAI can't be reached.", False),
    ],
)
def test_an_outage_only_delays_a_batch(
    workers: Workers, outage: dict[str, Any], message: str, known: bool
) -> None:
    job_id = workers.batch()
    workers.emulator.outage(operations=CREATE, **outage)
    workers.step(job_id)
    job = workers.job(job_id)
    assert job.state in LIVE
    assert job.message.startswith(WAITING + message)
    assert job.tries == (0 if known else 1)
    assert workers.due_in_s(job_id) <= 1
    workers.emulator.end_outages()
    workers.end_backoff()
    workers.step(job_id)
    [batch] = workers.batches()
    job = workers.job(job_id)
    assert (job.state, job.batch_id, job.message) == (JobState.RUNNING, batch["id"], "")


def test_a_timeout_is_an_outage(make_workers: MakeWorkers, emulator: Emulator) -> None:
    workers = make_workers(openai_timeout_s=0.2)
    job_id = workers.batch()
    emulator.outage(answer="normal", operations=CREATE, delay_s=0.6, count=1)
    workers.step(job_id)
    assert workers.job(job_id).message == f"{WAITING}OpenAI did not answer in time."
    workers.end_backoff()
    workers.step(job_id)
    assert [batch["id"] for batch in workers.batches()] == [workers.job(job_id).batch_id]


def test_a_refused_connection_is_not_a_try(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workers.batch()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    client.cached_sdk_client.cache_clear()
    workers.step(job_id)
    job = workers.job(job_id)
    assert (job.state, job.tries) == (JobState.QUEUED, 0)
    assert job.message == f"{WAITING}OpenAI can't be reached."


def test_after_a_lost_reply_the_next_try_waits_until_it_can_search(
    make_workers: MakeWorkers, emulator: Emulator
) -> None:
    workers = make_workers(settle_s=600)
    job_id = workers.batch()
    emulator.outage(answer="drop", after_acting=True, operations=CREATE, count=1)
    workers.step(job_id)
    workers.end_backoff()
    with workers.calls(batches_create=0, batches_list=0):
        workers.step(job_id)
    assert workers.job(job_id).message == "Checking whether OpenAI already has this batch"
    assert workers.due_in_s(job_id) == pytest.approx(600, abs=10)
    workers.settle(job_id)
    with workers.calls(batches_create=0, batches_list=1):
        workers.step(job_id)
    [batch] = workers.batches()
    assert workers.job(job_id).batch_id == batch["id"]


def test_the_search_works_with_an_empty_list(make_workers: MakeWorkers, emulator: Emulator) -> None:
    workers = make_workers()
    job_id = workers.batch()
    emulator.outage(operations=CREATE, count=1)
    workers.step(job_id)
    workers.end_backoff()
    workers.step(job_id)
    assert [batch["id"] for batch in workers.batches()] == [workers.job(job_id).batch_id]


def test_a_rebuilt_job_finds_its_batch_again(workers: Workers) -> None:
    job_id = workers.submitted()
    job = workers.job(job_id)
    workers.store.redis.delete(f"{workers.runtime.settings.key_prefix}:job:{job_id}")
    job_request = a_job_request(job_id=job_id, spec=job.spec)
    workers.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    workers.end_backoff()
    workers.settle(job_id)
    with workers.calls(batches_create=0):
        workers.step(job_id)
    assert workers.job(job_id).batch_id == job.batch_id


def test_retry_after_is_honoured(workers: Workers) -> None:
    job_id = workers.batch()
    workers.emulator.outage(status=429, retry_after_s=120, operations=CREATE)
    workers.step(job_id)
    assert workers.due_in_s(job_id) == pytest.approx(120, abs=5)


def test_a_backoff_pauses_all_jobs_of_the_credential(workers: Workers) -> None:
    first, second = workers.batch(), workers.batch()
    polled = workers.submitted()
    workers.emulator.outage(status=429, retry_after_s=60, operations=CREATE)
    workers.step(first)
    with workers.calls(batches_create=0, batches_retrieve=0):
        workers.step(second)
        workers.poll(polled)
    for job_id in (second, polled):
        assert workers.job(job_id).message == workers.job(first).message
        assert workers.phase(job_id) is Phase.INITIALIZING
        assert workers.due_in_s(job_id) == pytest.approx(60, abs=5)
    workers.emulator.end_outages()
    workers.end_backoff()
    workers.step(first, second)
    assert len(workers.batches()) == 3


def test_flyte_shows_the_wait_for_a_key_of_all_its_jobs(workers: Workers) -> None:
    first, second, polled = workers.batch(), workers.batch(), workers.submitted()
    workers.emulator.configure(refused_keys=[KEY])
    workers.step(first)
    workers.step(second)
    workers.poll(polled)
    for job_id in (first, second, polled):
        assert workers.phase(job_id) is Phase.WAITING_FOR_RESOURCES
    workers.emulator.configure(refused_keys=[])
    workers.end_backoff()
    workers.step(first, second)
    workers.poll(polled)
    for job_id in (first, second, polled):
        assert workers.phase(job_id) in (Phase.INITIALIZING, Phase.RUNNING)


def test_a_refused_key_pauses_only_its_own_jobs(workers: Workers) -> None:
    waiting = workers.batch()
    other = workers.batch(credential=workers.credential(group="other", key="key"))
    workers.emulator.configure(refused_keys=[KEY])
    workers.step(waiting, other)
    job = workers.job(waiting)
    assert job.state in LIVE
    assert job.message.startswith(f"{WAITING}OpenAI rejected the API key (HTTP 401). ")
    assert workers.job(other).batch_id
    workers.emulator.configure(refused_keys=[])
    workers.end_backoff()
    workers.step(waiting)
    assert workers.job(waiting).batch_id
    assert len(workers.batches()) == 2


def test_a_cancellation_ends_a_job_whose_key_was_refused(workers: Workers) -> None:
    job_id = workers.batch()
    workers.emulator.configure(refused_keys=[KEY])
    workers.step(job_id)
    assert workers.request_cancel(job_id) is records.CancelResult.CANCELLED


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "environment variable _FSEC_FLYTE_OPENAI_API_KEY or the file "),
        ("", "environment variable _FSEC_FLYTE_OPENAI_API_KEY or the file "),
        ("sk-\nno-key", "'FLYTE_OPENAI_API_KEY' contains characters that an API key cannot have"),
    ],
)
def test_a_job_without_its_key_waits_and_says_where_to_put_it(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    job_id = workers.batch()
    if value is None:
        monkeypatch.delenv("_FSEC_FLYTE_OPENAI_API_KEY")
    else:
        monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", value)
    workers.step(job_id)
    job = workers.job(job_id)
    assert job.state in LIVE
    assert job.phase is Phase.WAITING_FOR_RESOURCES
    assert message in job.message
    assert "no-key" not in job.message
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", KEY)
    workers.end_backoff()
    workers.step(job_id)
    assert workers.job(job_id).batch_id


@pytest.mark.parametrize("pairs", [0, 15, 16])
def test_the_result_has_all_of_the_users_metadata(workers: Workers, pairs: int) -> None:
    metadata = {f"key-{number:02}": f"value {number}" for number in range(pairs)}
    job_id = workers.submitted(config={"metadata": metadata})
    [batch] = workers.batches()
    sent = dict(list(metadata.items())[:15]) | {"batchflow_job": job_id}
    assert batch["metadata"] == sent
    workers.emulator.end(batch["id"])
    workers.poll(job_id)
    result = workers.job(job_id).result
    assert result is not None
    assert result["metadata"] == metadata | {"batchflow_job": job_id}


def test_only_openais_parameters_are_sent(workers: Workers) -> None:
    # The config travels as a protobuf Struct, which has only floats.
    expiry = {"anchor": "created_at", "seconds": 86_400.0}
    job_id = workers.submitted(
        config={
            "completion_window": None,
            "endpoint": None,
            "metadata": None,
            "model": "gpt-shown",
            "output_expires_after": expiry,
        }
    )
    assert workers.job(job_id).model == "gpt-shown"
    assert len(workers.batches()) == 1


def a_batch(number: int, age_s: float, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"batch_{number}",
        "object": "batch",
        "completion_window": "24h",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "status": "in_progress",
        "created_at": int(time.time() - age_s),
        **fields,
    }


def test_a_rebuilt_job_finds_its_batch_on_the_second_page(workers: Workers) -> None:
    job_id = a_job_request().job_id
    newer = [a_batch(n, 3 * 3_600 + n) for n in range(100)]
    metadata = {"batchflow_job": job_id}
    pages = {
        None: {"object": "list", "data": newer, "has_more": True},
        "batch_99": {
            "object": "list",
            "data": [a_batch(100, 5 * 3_600, metadata=metadata)],
            "has_more": False,
        },
    }
    created: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json=pages[request.url.params.get("after")])
        created.append(request)
        return httpx2.Response(200, json=a_batch(101, 0, metadata=metadata))

    job_request = a_job_request(job_id=job_id)
    workers.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    workers.settle(job_id)
    workers.answered_by(answer).step(job_id)
    assert not created, "a second batch was created"
    assert workers.job(job_id).batch_id == "batch_100"


@pytest.mark.parametrize("retry_after", ["inf", "nan", "-1", "soon", "1e300"])
def test_an_invalid_retry_after_is_ignored(workers: Workers, retry_after: str) -> None:
    job_id = workers.batch("file-1")
    headers = {"retry-after": retry_after}
    workers.answered_by(lambda _: httpx2.Response(503, headers=headers, json={})).step(job_id)
    job = workers.job(job_id)
    assert job.state in LIVE
    assert job.message.startswith(f"{WAITING}OpenAI returned HTTP 503")


GARBAGE: dict[str, dict[str, Any]] = {
    "a proxy's page": {"text": "<html>Sign in to this network</html>"},
    "nothing": {"text": ""},
    "an array": {"json": []},
    "null": {"json": None},
    "an empty object": {"json": {}},
    "an incomplete batch": {"json": {"id": "batch_1", "object": "batch"}},
    "a list of null": {"json": {"object": "list", "data": None}},
    "a list of other values": {"json": {"object": "list", "data": ["a", 1]}},
    "a list of incomplete batches": {"json": {"object": "list", "data": [{"id": "b"}]}},
    "a redirection": {"status_code": 302, "headers": {"location": "http://openai.test/v1/x"}},
}


@pytest.fixture(params=GARBAGE)
def garbled(request: pytest.FixtureRequest, workers: Workers) -> Workers:
    """Workers that receive garbage in response to every call."""
    answer: dict[str, Any] = {"status_code": 200} | GARBAGE[request.param]
    return workers.answered_by(lambda _: httpx2.Response(**answer))


@pytest.mark.parametrize("tries", [0, 1], ids=["create", "list"])
def test_garbage_counts_as_an_outage(garbled: Workers, tries: int) -> None:
    job_id = garbled.batch("file-1")
    garbled.change(job_id, tries=tries, settled_at=0)
    garbled.step(job_id)
    job = garbled.job(job_id)
    assert job.state is JobState.QUEUED
    assert job.message.startswith(WAITING)
    assert (job.failures, job.batch_id) == (0, None)


@pytest.mark.parametrize("count", [1, 3], ids=["retrieve", "list"])
def test_garbage_does_not_break_a_poll(garbled: Workers, count: int) -> None:
    ids = [garbled.batch("file-1") for _ in range(count)]
    for number, job_id in enumerate(ids, start=1):
        garbled.change(job_id, batch_id=f"batch_{number}", state="running")
    garbled.poll(*ids)
    for job_id in ids:
        assert garbled.job(job_id).state is JobState.RUNNING
        assert garbled.job(job_id).message.startswith(WAITING)
