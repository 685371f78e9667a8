"""The workers' steps against a real Redis and the emulator's process."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import httpx2
import openai
import pytest
from batchflow_workers import lease
from batchflow_workers.files import storage, transfer_progress
from batchflow_workers.files.validating_reader import AHEAD_BYTES, ValidatingReader
from batchflow_workers.policy import Policy
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps.runner import run_step

from batchflow.jobs import Credential, Job
from batchflow.openai_client import client
from batchflow.openai_client.client import OpenAIApi
from batchflow.queue import QueueUnavailable, Step
from batchflow.requests import jsonl
from batchflow.requests.jsonl import ValidationMode
from batchflow.settings import Settings
from batchflow.states import JobState, Stage
from batchflow.store import connect, index, records
from batchflow.store import leases as store_leases
from tests.kit.emulator import Emulator
from tests.kit.job_requests import a_job_request
from tests.kit.runtime import KEY
from tests.kit.steps import LINE, Notes, Steps, lines

OTHER_KEY = "sk-test-another-key"
CREATE = ["batches.create"]
POLICY = Policy()
WAITING = "Waiting to call OpenAI again. "
LIVE = (JobState.QUEUED, JobState.RUNNING)


MakeSteps = Callable[..., Steps]


@pytest.fixture
def make_steps(
    emulator: Emulator,
    settings: Callable[..., Settings],
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[MakeSteps]:
    """Workers with settings; each test has its own organization at OpenAI."""
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.base_url)
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("_FSEC_OTHER_KEY", OTHER_KEY)
    client.cached_sdk_client.cache_clear()
    made: list[Steps] = []

    def make(**values: object) -> Steps:
        quick = {"settle_s": 0, "poll_interval_s": 0.05, "lease_s": 5, "openai_timeout_s": 5}
        chosen, notes = settings(**quick | values), Notes()
        runtime = Runtime(chosen, connect(chosen), notes)
        made.append(Steps(runtime, emulator, f"org-{key_prefix}", notes))
        return made[-1]

    yield make
    for steps in made:
        steps.runtime.store.redis.close()
    client.cached_sdk_client.cache_clear()


@pytest.fixture
def steps(make_steps: MakeSteps) -> Steps:
    """Workers of an organization that has a batch already, which is nobody's business."""
    steps = make_steps()
    with steps.emulator.sdk(steps.organization) as client:
        client.batches.create(
            completion_window="24h",
            endpoint="/v1/chat/completions",
            input_file_id=steps.emulator.upload(steps.organization, lines(1)),
        )
    return steps


def ours(steps: Steps) -> list[dict[str, Any]]:
    """The batches that jobs have made."""
    return [batch for batch in steps.batches() if "batchflow_job" in (batch["metadata"] or {})]


# Submit


def test_submit_makes_the_batch(steps: Steps) -> None:
    job_id = steps.batch()
    with steps.calls(batches_create=1, batches_list=0):
        steps.step(job_id)
        steps.step(job_id)  # a message that comes twice
    [batch] = ours(steps)
    assert batch["metadata"] == {"batchflow_job": job_id}
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    job = steps.job(job_id)
    assert (job.state, job.batch_id, job.source) == (JobState.RUNNING, batch["id"], "submit")
    assert steps.runtime.store.run(records.find_job(batch["id"])) == job_id


def test_a_batch_from_beginning_to_end(steps: Steps) -> None:
    job_id = steps.submitted()
    batch_id = str(steps.job(job_id).batch_id)
    steps.emulator.end(batch_id)
    steps.poll(job_id)
    job = steps.job(job_id)
    assert (job.state, job.total, job.completed, job.failed) == (JobState.SUCCEEDED, 3, 3, 0)
    assert (job.model, job.message) == ("gpt-test", "")
    assert job.result is not None
    assert job.result["output_file_id"] == job.output_file_id
    assert job.result["metadata"] == {"batchflow_job": job_id}


def test_what_openai_refuses_fails_with_its_words(steps: Steps) -> None:
    job_id = steps.batch("file-of-nobody")
    steps.step(job_id)
    job = steps.job(job_id)
    assert (job.state, job.message) == (JobState.FAILED, "No such File object: file-of-nobody")
    assert not ours(steps)


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
def test_an_outage_costs_time_and_nothing_else(
    steps: Steps, outage: dict[str, Any], message: str, known: bool
) -> None:
    job_id = steps.batch()
    steps.emulator.outage(operations=CREATE, **outage)
    steps.step(job_id)
    job = steps.job(job_id)
    assert job.state in LIVE
    assert job.message.startswith(WAITING + message)
    assert job.tries == (0 if known else 1)
    assert steps.due_in_s(job_id) <= 1
    steps.emulator.end_outages()
    steps.pass_time()
    steps.step(job_id)
    [batch] = ours(steps)
    job = steps.job(job_id)
    assert (job.state, job.batch_id, job.message) == (JobState.RUNNING, batch["id"], "")


def test_a_timeout_is_an_outage(make_steps: MakeSteps, emulator: Emulator) -> None:
    steps = make_steps(openai_timeout_s=0.2)
    job_id = steps.batch()
    emulator.outage(answer="normal", operations=CREATE, delay_s=0.6, count=1)
    steps.step(job_id)
    assert steps.job(job_id).message == f"{WAITING}OpenAI did not answer in time."
    steps.pass_time()
    steps.step(job_id)
    assert [batch["id"] for batch in ours(steps)] == [steps.job(job_id).batch_id]


def test_a_refused_connection_was_never_sent(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = steps.batch()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    client.cached_sdk_client.cache_clear()
    steps.step(job_id)
    job = steps.job(job_id)
    assert (job.state, job.tries) == (JobState.QUEUED, 0)
    assert job.message == f"{WAITING}OpenAI can't be reached."


def test_after_a_lost_reply_nothing_is_made_before_it_can_be_seen(
    make_steps: MakeSteps, emulator: Emulator
) -> None:
    steps = make_steps(settle_s=600)
    job_id = steps.batch()
    emulator.outage(answer="drop", after_acting=True, operations=CREATE, count=1)
    steps.step(job_id)
    steps.pass_time()
    with steps.calls(batches_create=0, batches_list=0):
        steps.step(job_id)
    assert steps.job(job_id).message == "Checking whether OpenAI already has this batch"
    assert steps.due_in_s(job_id) == pytest.approx(600, abs=10)
    steps.change(job_id, tried_at=0)
    with steps.calls(batches_create=0, batches_list=1):
        steps.step(job_id)
    [batch] = ours(steps)
    assert steps.job(job_id).batch_id == batch["id"]


def test_an_empty_list_of_batches_is_no_obstacle(make_steps: MakeSteps, emulator: Emulator) -> None:
    steps = make_steps()
    job_id = steps.batch()
    emulator.outage(operations=CREATE, count=1)
    steps.step(job_id)
    steps.pass_time()
    steps.step(job_id)
    assert [batch["id"] for batch in ours(steps)] == [steps.job(job_id).batch_id]


def test_a_job_that_redis_forgot_finds_its_batch_again(steps: Steps) -> None:
    job_id = steps.submitted()
    job = steps.job(job_id)
    steps.runtime.store.redis.delete(f"{steps.runtime.settings.key_prefix}:job:{job_id}")
    job_request = a_job_request(job_id=job_id, spec=job.spec)
    steps.runtime.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    steps.pass_time()
    with steps.calls(batches_create=0):
        steps.step(job_id)
    assert steps.job(job_id).batch_id == job.batch_id


def test_retry_after_is_honoured(steps: Steps) -> None:
    job_id = steps.batch()
    steps.emulator.outage(status=429, retry_after_s=120, operations=CREATE)
    steps.step(job_id)
    assert steps.due_in_s(job_id) == pytest.approx(120, abs=5)


def test_all_jobs_of_a_credential_wait_together(steps: Steps) -> None:
    first, second = steps.batch(), steps.batch()
    polled = steps.submitted()
    steps.emulator.outage(status=429, retry_after_s=60, operations=CREATE)
    steps.step(first)
    with steps.calls(batches_create=0, batches_retrieve=0):
        steps.step(second)
        steps.poll(polled)
    for job_id in (second, polled):
        assert steps.job(job_id).message == steps.job(first).message
        assert steps.due_in_s(job_id) == pytest.approx(60, abs=5)
    steps.emulator.end_outages()
    steps.pass_time()
    steps.step(first, second)
    assert len(ours(steps)) == 3


def test_a_refused_key_makes_its_jobs_wait_and_no_others(steps: Steps) -> None:
    waiting = steps.batch()
    going_on = steps.batch(credential=steps.credential(group="other", key="key"))
    steps.emulator.configure(refused_keys=[KEY])
    steps.step(waiting, going_on)
    job = steps.job(waiting)
    assert job.state in LIVE
    assert job.message.startswith(f"{WAITING}OpenAI rejected the API key (HTTP 401). ")
    assert steps.job(going_on).batch_id
    steps.emulator.configure(refused_keys=[])
    steps.pass_time()
    steps.step(waiting)
    assert steps.job(waiting).batch_id
    assert len(ours(steps)) == 2


def test_a_refused_key_sent_nothing_so_that_a_cancel_ends_the_job(steps: Steps) -> None:
    job_id = steps.batch()
    steps.emulator.configure(refused_keys=[KEY])
    steps.step(job_id)
    assert steps.ask_to_cancel(job_id) is records.CancelResult.CANCELLED


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "environment variable _FSEC_FLYTE_OPENAI_API_KEY or the file "),
        ("", "environment variable _FSEC_FLYTE_OPENAI_API_KEY or the file "),
        ("sk-\nno-key", "'FLYTE_OPENAI_API_KEY' contains characters that an API key cannot have"),
    ],
)
def test_without_its_key_a_job_waits_and_says_where_to_put_it(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    job_id = steps.batch()
    if value is None:
        monkeypatch.delenv("_FSEC_FLYTE_OPENAI_API_KEY")
    else:
        monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", value)
    steps.step(job_id)
    job = steps.job(job_id)
    assert job.state in LIVE
    assert message in job.message
    assert "no-key" not in job.message
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", KEY)
    steps.pass_time()
    steps.step(job_id)
    assert steps.job(job_id).batch_id


@pytest.mark.parametrize("pairs", [0, 15, 16])
def test_the_users_metadata_is_all_in_the_result(steps: Steps, pairs: int) -> None:
    metadata = {f"key-{number:02}": f"value {number}" for number in range(pairs)}
    job_id = steps.submitted(config={"metadata": metadata})
    [batch] = ours(steps)
    sent = dict(list(metadata.items())[:15]) | {"batchflow_job": job_id}
    assert batch["metadata"] == sent
    steps.emulator.end(batch["id"])
    steps.poll(job_id)
    result = steps.job(job_id).result
    assert result is not None
    assert result["metadata"] == metadata | {"batchflow_job": job_id}


def test_only_what_openai_knows_of_the_config_is_sent(steps: Steps) -> None:
    # As it comes out of a protobuf Struct, which has only floats.
    expiry = {"anchor": "created_at", "seconds": 86_400.0}
    job_id = steps.submitted(
        config={
            "completion_window": None,
            "endpoint": None,
            "metadata": None,
            "model": "gpt-shown",
            "output_expires_after": expiry,
        }
    )
    assert steps.job(job_id).model == "gpt-shown"
    assert len(ours(steps)) == 1


# What all steps have in common


def test_a_job_that_somebody_is_at_is_left_alone(steps: Steps) -> None:
    job_id = steps.batch()
    steps.runtime.store.run(store_leases.acquire(job_id, "somebody", ttl_s=60))
    steps.step(job_id)
    assert not ours(steps)
    steps.runtime.store.run(store_leases.release(job_id, "somebody"))
    steps.step(job_id)
    assert len(ours(steps)) == 1


@pytest.mark.parametrize("hangs", [True, False])
def test_a_step_that_hangs_does_not_keep_its_job(
    make_steps: MakeSteps, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    if hangs:
        monkeypatch.setattr(lease, "STEP_LIMIT_S", 0)
    steps = make_steps(lease_s=0.5)
    taken = store_leases.acquire(job_id := steps.batch(), "somebody else", ttl_s=60)

    def work(runtime: Runtime, _: Job) -> None:
        deadline = time.monotonic() + (10 if hangs else 1.5)
        while not (got := runtime.store.run(taken)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert got is hangs

    run_step(steps.runtime, "test", job_id, work)
    assert steps.job(job_id).message == ""


def test_a_step_without_a_job_does_nothing(steps: Steps) -> None:
    def work(_: Runtime, __: Job) -> None:
        pytest.fail("there is nothing to do")

    run_step(steps.runtime, "test", a_job_request().job_id, work)


def test_a_step_that_keeps_breaking_is_given_up(steps: Steps) -> None:
    job_id = steps.batch()

    def broken(_: Runtime, __: Job) -> None:
        raise ZeroDivisionError

    delays_s = []
    for failure in range(1, POLICY.max_failures):
        run_step(steps.runtime, "test", job_id, broken)
        message = f"Batchflow's test step failed with ZeroDivisionError (try {failure} of 8)"
        assert (steps.job(job_id).state, steps.job(job_id).message) == (JobState.QUEUED, message)
        delays_s.append(round(steps.due_in_s(job_id)))
    assert delays_s == [2, 4, 8, 16, 32, 64, 128]
    run_step(steps.runtime, "test", job_id, broken)
    assert steps.job(job_id).state is JobState.RETRYABLE


def test_a_success_forgets_earlier_failures(steps: Steps) -> None:
    job_id = steps.batch()
    steps.change(job_id, failures=POLICY.max_failures - 1)
    steps.step(job_id)
    assert steps.job(job_id).failures == 0


# Answers that no emulator gives


def scripted(steps: Steps, answer: Callable[[httpx2.Request], httpx2.Response]) -> Steps:
    """Workers whose OpenAI answers as a function says."""

    class Scripted(Runtime):
        def openai(self, credential: Credential) -> OpenAIApi:
            http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(answer))
            base_url = "http://openai.test/v1"
            client = openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0, http_client=http)
            return OpenAIApi(client)

    runtime = steps.runtime
    return replace(steps, runtime=Scripted(runtime.settings, runtime.store, runtime.sender))


def shown_batch(number: int, age_s: float, **fields: Any) -> dict[str, Any]:
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


def test_a_batch_that_redis_forgot_is_found_behind_many_newer_ones(steps: Steps) -> None:
    job_id = a_job_request().job_id
    newer = [shown_batch(n, 3 * 3_600 + n) for n in range(100)]
    metadata = {"batchflow_job": job_id}
    pages = {
        None: {"object": "list", "data": newer, "has_more": True},
        "batch_99": {
            "object": "list",
            "data": [shown_batch(100, 5 * 3_600, metadata=metadata)],
            "has_more": False,
        },
    }

    made: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json=pages[request.url.params.get("after")])
        made.append(request)
        return httpx2.Response(200, json=shown_batch(101, 0, metadata=metadata))

    job_request = a_job_request(job_id=job_id)
    steps.runtime.store.run(records.create(job_request, due_in_s=0, source="get", rebuilt=True))
    scripted(steps, answer).step(job_id)
    assert not made, "a second batch is paid"
    assert steps.job(job_id).batch_id == "batch_100"


@pytest.mark.parametrize("retry_after", ["inf", "nan", "-1", "soon", "1e300"])
def test_a_strange_retry_after_breaks_nothing(steps: Steps, retry_after: str) -> None:
    job_id = steps.batch("file-1")
    headers = {"retry-after": retry_after}
    scripted(steps, lambda _: httpx2.Response(503, headers=headers, json={})).step(job_id)
    job = steps.job(job_id)
    assert job.state in LIVE
    assert job.message.startswith(f"{WAITING}OpenAI returned HTTP 503")


GARBAGE: dict[str, dict[str, Any]] = {
    "a page of a proxy": {"text": "<html>Sign in to this network</html>"},
    "nothing": {"text": ""},
    "an array": {"json": []},
    "null": {"json": None},
    "an empty object": {"json": {}},
    "a batch with hardly anything": {"json": {"id": "batch_1", "object": "batch"}},
    "a list of null": {"json": {"object": "list", "data": None}},
    "a list of what is no batch": {"json": {"object": "list", "data": ["a", 1]}},
    "a list of batches with hardly anything": {"json": {"object": "list", "data": [{"id": "b"}]}},
    "a redirection": {"status_code": 302, "headers": {"location": "http://openai.test/v1/x"}},
}


@pytest.fixture(params=GARBAGE)
def garbled(request: pytest.FixtureRequest, steps: Steps) -> Steps:
    """Workers to whom OpenAI, or something between, answers everything with garbage."""
    answer: dict[str, Any] = {"status_code": 200} | GARBAGE[request.param]
    return scripted(steps, lambda _: httpx2.Response(**answer))


@pytest.mark.parametrize("tries", [0, 1], ids=["create", "list"])
def test_garbage_is_an_outage_and_no_fault_of_the_step(garbled: Steps, tries: int) -> None:
    job_id = garbled.batch("file-1")
    garbled.change(job_id, tries=tries)
    garbled.step(job_id)
    job = garbled.job(job_id)
    assert job.state is JobState.QUEUED
    assert job.message.startswith(WAITING)
    assert (job.failures, job.batch_id) == (0, None)


@pytest.mark.parametrize("count", [1, 3], ids=["retrieve", "list"])
def test_garbage_does_not_break_a_poll(garbled: Steps, count: int) -> None:
    ids = [garbled.batch("file-1") for _ in range(count)]
    for number, job_id in enumerate(ids, start=1):
        garbled.change(job_id, batch_id=f"batch_{number}", state="running")
    garbled.poll(*ids)
    for job_id in ids:
        assert garbled.job(job_id).state is JobState.RUNNING
        assert garbled.job(job_id).message.startswith(WAITING)


# Upload


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(lines(5))
    return path


def test_upload_sends_the_file_under_the_jobs_name(steps: Steps, file: Path) -> None:
    job_id = steps.upload(str(file))
    steps.step(job_id)
    job = steps.job(job_id)
    sent = steps.uploads()[-1]
    assert (sent["filename"], sent["bytes"]) == (f"{job_id}.jsonl", file.stat().st_size)
    assert (job.state, job.message) == (JobState.SUCCEEDED, "")
    assert job.result == {"file_id": sent["id"]}
    assert (job.input_file_id, job.total, job.model) == (sent["id"], 5, "gpt-test")
    assert job.bytes_done == job.bytes_total == sent["bytes"]


@pytest.mark.parametrize("validation", ["json", "off"])
def test_upload_looks_as_closely_as_it_is_told(
    make_steps: MakeSteps, tmp_path: Path, validation: str
) -> None:
    steps = make_steps(validation=validation)
    (tmp_path / "in.jsonl").write_bytes(b'{"custom_id": "a", "prompt": "of another provider"}\n')
    job_id = steps.upload(f"file://{tmp_path}/in.jsonl")
    steps.step(job_id)
    assert (steps.job(job_id).message, steps.job(job_id).state) == ("", JobState.SUCCEEDED)


def test_a_bad_file_fails_with_its_lines_and_nothing_is_sent(steps: Steps, file: Path) -> None:
    file.write_bytes(lines(2) + b'{"custom_id": "0"}\n' + b"no json\n")
    job_id = steps.upload(str(file))
    with steps.calls(files_create=0):
        steps.step(job_id)
    job = steps.job(job_id)
    assert job.state is JobState.FAILED
    assert "nothing was uploaded" in job.message
    assert "line 3: custom_id '0' was already used on line 1" in job.message
    assert "line 4: not valid JSON" in job.message


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nothing.jsonl", "There is no file {folder}/nothing.jsonl."),
        ("", "There is no file {folder}/."),
    ],
)
def test_a_file_that_is_not_there_fails(
    steps: Steps, tmp_path: Path, uri: str, message: str
) -> None:
    job_id = steps.upload(f"{tmp_path}/{uri}")
    steps.step(job_id)
    job = steps.job(job_id)
    assert (job.state, job.message) == (JobState.FAILED, message.format(folder=tmp_path))


def sent_for(steps: Steps, job_id: str) -> list[dict[str, Any]]:
    """What OpenAI has of an upload."""
    return [sent for sent in steps.uploads() if sent["filename"] == f"{job_id}.jsonl"]


def appended(file: Path) -> None:
    with file.open("ab") as more:
        more.write(b"no json")


def overwritten(file: Path) -> None:
    with file.open("r+b") as same:
        same.write(b"X")


def cut(file: Path) -> None:
    os.truncate(file, 10)


_LARGE_LINES = 18_000


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file whose sending begins before its check ends."""
    path = tmp_path / "large.jsonl"
    line = LINE.replace(b"Hello", b"Hello " * 200)
    path.write_bytes(b"".join(line % number for number in range(_LARGE_LINES)))
    assert AHEAD_BYTES + (1 << 20) < path.stat().st_size < 2 * AHEAD_BYTES
    return path


@pytest.mark.parametrize("change", [appended, overwritten, cut])
@pytest.mark.parametrize("which", ["file", "large"])
def test_a_file_that_changes_while_it_is_checked_and_sent_is_not_sent(
    steps: Steps,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    change: Callable[[Path], None],
) -> None:
    path: Path = request.getfixturevalue(which)
    whole = path.read_bytes()
    job_id = steps.upload(str(path))
    with monkeypatch.context() as patch:
        when(patch, ValidatingReader, "validate_ahead", lambda: change(path))
        steps.step(job_id)
    job = steps.job(job_id)
    assert (
        job.message
        == f"{path} was changed while it was being read. (try 1 of {POLICY.max_failures})"
    )
    assert (job.state, sent_for(steps, job_id)) == (JobState.RUNNING, [])
    # The next try checks again, and finds that nothing has arrived.
    path.write_bytes(whole)
    with steps.calls(files_list=1, files_create=1):
        steps.step(job_id)
    [sent] = sent_for(steps, job_id)
    assert sent["bytes"] == len(whole)
    assert steps.job(job_id).result == {"file_id": sent["id"]}


def test_a_file_that_is_replaced_after_the_check_is_sent_as_it_was(
    steps: Steps, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked_bytes = file.stat().st_size
    other = file.with_name("other.jsonl")
    other.write_bytes(b"no json\n")
    when(
        monkeypatch,
        ValidatingReader,
        "validate_ahead",
        lambda: other.exists() and other.replace(file),
    )
    job_id = steps.upload(str(file))
    steps.step(job_id)
    assert [sent["bytes"] for sent in sent_for(steps, job_id)] == [checked_bytes]
    assert steps.job(job_id).state is JobState.SUCCEEDED


def test_an_upload_that_is_redirected_sends_the_file_again(steps: Steps, large: Path) -> None:
    received: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        received.append(request.read())
        if request.url.path == "/v1/files":
            return httpx2.Response(308, headers={"location": "/openai/v1/files"})
        return httpx2.Response(
            200, json={"id": "file-1", "filename": "f", "created_at": 0, "object": "file"}
        )

    moved = scripted(steps, answer)
    job_id = moved.upload(str(large))
    moved.step(job_id)
    assert moved.job(job_id).result == {"file_id": "file-1"}
    assert [large.read_bytes() in body for body in received] == [True, True]


def test_a_large_file_whose_end_is_bad_never_comes_to_be_at_openai(
    steps: Steps, large: Path, file: Path
) -> None:
    with large.open("ab") as end:
        end.write(b"no json\n" + LINE % 0)
    job_id = steps.upload(str(large))
    steps.step(job_id)
    job = steps.job(job_id)
    assert (job.state, sent_for(steps, job_id)) == (JobState.FAILED, [])
    assert "2 problems; nothing was uploaded" in job.message
    assert f"line {_LARGE_LINES + 1}: not valid JSON" in job.message
    assert f"line {_LARGE_LINES + 2}: custom_id '0' was already used on line 1" in job.message
    # Others with the same key don't have to wait for it.
    other = steps.upload(str(file))
    steps.step(other)
    assert steps.job(other).state is JobState.SUCCEEDED


def test_a_large_file_whose_beginning_is_bad_is_not_sent_at_all(steps: Steps, large: Path) -> None:
    large.write_bytes(b"no json\n" + large.read_bytes() + b"no json\n")
    job_id = steps.upload(str(large))
    with steps.calls(files_create=0):
        steps.step(job_id)
    job = steps.job(job_id)
    assert job.state is JobState.FAILED
    assert "line 1: not valid JSON" in job.message
    assert f"line {_LARGE_LINES + 2}: not valid JSON" in job.message


def test_a_file_within_the_look_ahead_is_not_sent_before_all_of_it_is_checked(
    steps: Steps, file: Path
) -> None:
    line, bad = LINE % 0, b"no json"
    blanks = b" " * (AHEAD_BYTES - len(line) - len(bad))
    file.write_bytes(line.replace(b"\n", blanks + b"\n") + bad)
    assert file.stat().st_size == AHEAD_BYTES
    job_id = steps.upload(str(file))
    with steps.calls(files_create=0):
        steps.step(job_id)
    assert "line 2: not valid JSON" in steps.job(job_id).message


def test_an_upload_says_how_far_it_is(
    steps: Steps, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_progress, "_INTERVAL_S", 0.0)
    job_id = steps.upload(str(large))
    seen: list[Job] = []
    when(monkeypatch, ValidatingReader, "validate_ahead", lambda: seen.append(steps.job(job_id)))
    steps.step(job_id)
    size_bytes = large.stat().st_size
    under_way = [job for job in seen if 0 < job.bytes_done < size_bytes]
    assert len({job.bytes_done for job in under_way}) > 100
    assert {job.bytes_total for job in under_way} == {size_bytes}


def when(patch: pytest.MonkeyPatch, owner: type, name: str, also: Callable[[], object]) -> None:
    """Somebody else does something just after a method was called."""
    method = getattr(owner, name)

    def both(*args: Any, **options: Any) -> Any:
        answer = method(*args, **options)
        also()
        return answer

    patch.setattr(owner, name, both)


@pytest.fixture
def elsewhere(make_steps: MakeSteps, key_prefix: str) -> tuple[Steps, str, Any]:
    """Workers whose blob storage is no disk of theirs: its URI, and the storage itself."""
    uri = f"memory://{key_prefix}"
    return make_steps(allowed_uris=f"{uri}/"), uri, fsspec.filesystem("memory")


def test_a_file_that_is_elsewhere_is_sent_too(elsewhere: tuple[Steps, str, Any]) -> None:
    steps, uri, bucket = elsewhere
    bucket.pipe(f"{uri}/in.jsonl", lines(5_000))
    job_id = steps.upload(f"{uri}/in.jsonl")
    steps.step(job_id)
    assert [sent["bytes"] for sent in sent_for(steps, job_id)] == [len(lines(5_000))]
    assert (steps.job(job_id).state, steps.job(job_id).total) == (JobState.SUCCEEDED, 5_000)
    missing = steps.upload(f"{uri}/none.jsonl")
    steps.step(missing)
    assert steps.job(missing).message == f"There is no file {uri}/none.jsonl."


def test_no_more_of_a_file_elsewhere_is_copied_than_shows_that_it_is_too_large(
    elsewhere: tuple[Steps, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, uri, bucket = elsewhere
    monkeypatch.setattr(jsonl, "MAX_BYTES", 1 << 20)
    bucket.pipe(f"{uri}/in.jsonl", lines(1) + b" " * (20 << 20))
    with storage.source(f"{uri}/in.jsonl", ValidationMode.STRICT.max_bytes) as file:
        copied_bytes = file.seek(0, os.SEEK_END)
    assert 1 << 20 < copied_bytes < 10 << 20
    job_id = steps.upload(f"{uri}/in.jsonl")
    with steps.calls(files_create=0):
        steps.step(job_id)
    assert "the file is larger than" in steps.job(job_id).message


@pytest.mark.parametrize("uri", ["/etc/hostname", "http://169.254.169.254/latest/meta-data"])
def test_the_workers_own_files_are_none_of_an_authors_business(steps: Steps, uri: str) -> None:
    job_id = steps.upload(uri)
    with steps.calls(files_create=0):
        steps.step(job_id)
    assert steps.job(job_id).state is JobState.FAILED
    assert "The workers may not access" in steps.job(job_id).message


@pytest.mark.parametrize("lost", [True, False], ids=["arrived", "never arrived"])
def test_a_file_whose_reply_was_lost_is_sent_once(steps: Steps, file: Path, lost: bool) -> None:
    job_id = steps.upload(str(file))
    before = len(steps.uploads())
    steps.emulator.outage(answer="drop", after_acting=lost, operations=["files.create"], count=1)
    steps.step(job_id)
    assert steps.job(job_id).state in LIVE
    steps.pass_time()
    with steps.calls(files_list=1, files_create=0 if lost else 1):
        steps.step(job_id)
    [sent] = steps.uploads()[before:]
    assert steps.job(job_id).result == {"file_id": sent["id"]}


def test_a_first_file_whose_upload_failed_is_sent_again(make_steps: MakeSteps, file: Path) -> None:
    steps = make_steps()
    job_id = steps.upload(str(file))
    steps.emulator.outage(status=503, operations=["files.create"], count=1)
    steps.step(job_id)
    steps.pass_time()
    steps.step(job_id)
    assert len(steps.uploads()) == 1
    assert steps.job(job_id).state is JobState.SUCCEEDED


def test_a_file_that_nobody_waits_for_any_more_is_deleted(steps: Steps, file: Path) -> None:
    job_id = steps.upload(str(file))
    before = len(steps.uploads())
    steps.emulator.outage(answer="normal", operations=["files.create"], delay_s=0.5, count=1)
    worker = threading.Thread(target=steps.step, args=(job_id,))
    worker.start()
    deadline = time.monotonic() + 10
    while len(steps.uploads()) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    # OpenAI has the file and has not answered yet.
    assert steps.ask_to_cancel(job_id) is records.CancelResult.CANCELLED
    with steps.calls(files_delete=1):
        worker.join()
    assert len(steps.uploads()) == before
    assert steps.job(job_id).state is JobState.CANCELLED


# Download


@pytest.fixture
def finished(steps: Steps) -> dict[str, str]:
    """The files of a batch of which a part has failed."""
    bad = LINE_WITHOUT_MESSAGES + lines(2)
    job_id = steps.submitted(file_id=steps.emulator.upload(steps.organization, bad))
    steps.emulator.end(str(steps.job(job_id).batch_id))
    steps.poll(job_id)
    job = steps.job(job_id)
    assert job.output_file_id
    assert job.error_file_id
    return {"output_file_id": job.output_file_id, "error_file_id": job.error_file_id}


LINE_WITHOUT_MESSAGES = (
    b'{"custom_id": "bad", "method": "POST", "url": "/v1/chat/completions", '
    b'"body": {"model": "gpt-test"}}\n'
)


@pytest.mark.parametrize("names", [["output", "error"], ["output"], ["error"], []], ids="+".join)
def test_download_fetches_whichever_files_there_are(
    steps: Steps, finished: dict[str, str], tmp_path: Path, names: list[str]
) -> None:
    files = {f"{name}_file_id": finished[f"{name}_file_id"] for name in names}
    job_id = steps.download(f"{tmp_path}/out/", **files)
    steps.step(job_id)
    job = steps.job(job_id)
    paths = {name: tmp_path / "out" / f"{name}_file.jsonl" for name in ("output", "error")}
    assert job.state is JobState.SUCCEEDED
    assert job.result == {
        f"{name}_file": str(path) if name in names else None for name, path in paths.items()
    }
    there = {name: path.read_text() for name, path in paths.items() if path.exists()}
    assert set(there) == set(names)
    ids = {
        name: {json.loads(line)["custom_id"] for line in text.splitlines()}
        for name, text in there.items()
    }
    assert ids == {name: {"output": {"0", "1"}, "error": {"bad"}}[name] for name in names}
    assert job.bytes_done == job.bytes_total == sum(len(text) for text in there.values())


@pytest.mark.parametrize("answer", ["cut", "drop", "status"])
def test_a_broken_stream_leaves_no_file_and_is_tried_again(
    steps: Steps, finished: dict[str, str], tmp_path: Path, answer: str
) -> None:
    job_id = steps.download(str(tmp_path), **finished)
    steps.emulator.outage(answer=answer, operations=["files.content"], count=1)
    steps.step(job_id)
    assert not list(tmp_path.iterdir())
    job = steps.job(job_id)
    assert (job.state, job.failures) == (JobState.RUNNING, 0)
    assert job.message.startswith(WAITING)
    steps.pass_time()
    steps.step(job_id)
    assert {path.name for path in tmp_path.iterdir()} == {"output_file.jsonl", "error_file.jsonl"}
    assert steps.job(job_id).state is JobState.SUCCEEDED


def test_a_repeated_download_replaces_what_is_there(
    steps: Steps, finished: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "output_file.jsonl"
    target.write_text("old")
    steps.step(steps.download(str(tmp_path), output_file_id=finished["output_file_id"]))
    assert len(target.read_text().splitlines()) == 2


def test_a_download_to_another_place_than_a_disk(
    elsewhere: tuple[Steps, str, Any], finished: dict[str, str]
) -> None:
    steps, uri, bucket = elsewhere
    steps.step(steps.download(f"{uri}/out", **finished))
    there = {path.rpartition("/")[2]: bucket.cat(path) for path in bucket.ls(f"{uri}/out", False)}
    assert set(there) == {"output_file.jsonl", "error_file.jsonl"}
    assert len(there["output_file.jsonl"].splitlines()) == 2


def test_what_a_killed_download_has_left_is_cleared_away(
    steps: Steps, finished: dict[str, str], tmp_path: Path
) -> None:
    job_id = steps.download(str(tmp_path), output_file_id=finished["output_file_id"])
    (tmp_path / f".batchflow-{job_id}-abc").write_text("half a")
    others = tmp_path / ".batchflow-bf-another-abc"
    others.write_text("half a")
    steps.step(job_id)
    assert set(tmp_path.iterdir()) == {tmp_path / "output_file.jsonl", others}


def test_a_folder_that_can_not_be_written_is_tried_again(
    steps: Steps, finished: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("no folder")
    job_id = steps.download(f"{tmp_path}/out", output_file_id=finished["output_file_id"])
    steps.step(job_id)
    where = f"{tmp_path}/out/output_file.jsonl"
    assert steps.job(job_id).message == (
        f"Can't write {where} (FileExistsError). (try 1 of {POLICY.max_failures})"
    )


def test_a_file_that_openai_no_longer_has_fails(steps: Steps, tmp_path: Path) -> None:
    job_id = steps.download(str(tmp_path), output_file_id="file-expired")
    steps.step(job_id)
    job = steps.job(job_id)
    assert job.state is JobState.FAILED
    assert "file-expired" in job.message


# Cancel


def test_a_job_that_is_cancelled_before_it_is_sent_makes_no_call(steps: Steps) -> None:
    job_id = steps.batch()
    assert steps.ask_to_cancel(job_id) is records.CancelResult.CANCELLED
    with steps.calls(batches_create=0, batches_list=0, batches_cancel=0):
        steps.step(job_id)
        steps.cancel(job_id)
    assert steps.job(job_id).message == "Cancelled by Flyte."


def test_a_batch_is_cancelled_at_openai(steps: Steps) -> None:
    job_id = steps.submitted()
    assert steps.ask_to_cancel(job_id) is records.CancelResult.REQUESTED
    steps.cancel(job_id)
    job = poll_to_its_end(steps, job_id)
    assert (job.state, job.openai_status) == (JobState.CANCELLED, "cancelled")
    assert job.message.startswith("Cancelled by Flyte. ")
    assert "of 3 requests were completed" in job.message


def poll_to_its_end(steps: Steps, job_id: str) -> Job:
    deadline = time.monotonic() + 10
    while not steps.job(job_id).terminal:
        assert time.monotonic() < deadline, steps.job(job_id)
        steps.poll(job_id)
    return steps.job(job_id)


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_cancel_while_it_is_unknown_whether_the_batch_was_made(steps: Steps, made: bool) -> None:
    job_id = steps.batch()
    steps.emulator.outage(answer="drop", after_acting=made, operations=CREATE, count=1)
    steps.step(job_id)
    assert steps.ask_to_cancel(job_id) is records.CancelResult.REQUESTED
    steps.pass_time()
    with steps.calls(batches_create=0):
        steps.cancel(job_id)
        if made:
            assert (Step.CANCEL, job_id) in steps.sweep()
            steps.cancel(job_id)
            poll_to_its_end(steps, job_id)
    assert steps.job(job_id).state is JobState.CANCELLED
    assert steps.job(job_id).message.startswith("Cancelled by Flyte.")
    assert [batch["status"] for batch in ours(steps)] == (["cancelled"] if made else [])


def test_a_wish_to_cancel_that_comes_during_the_request_is_kept(steps: Steps) -> None:
    job_id = steps.batch()
    steps.emulator.outage(answer="normal", operations=CREATE, delay_s=0.5, count=1)
    worker = threading.Thread(target=steps.step, args=(job_id,))
    worker.start()
    deadline = time.monotonic() + 10
    while not ours(steps) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert steps.ask_to_cancel(job_id) is records.CancelResult.REQUESTED
    worker.join()
    assert (Step.CANCEL, job_id) in steps.sweep()
    steps.cancel(job_id)
    assert poll_to_its_end(steps, job_id).state is JobState.CANCELLED


def test_cancelling_a_batch_that_has_ended_meanwhile_finds_its_end(steps: Steps) -> None:
    job_id = steps.submitted()
    steps.emulator.end(str(steps.job(job_id).batch_id))
    steps.ask_to_cancel(job_id)
    steps.cancel(job_id)
    assert steps.job(job_id).state is JobState.SUCCEEDED


def test_an_outage_delays_a_cancel(steps: Steps) -> None:
    job_id = steps.submitted()
    steps.ask_to_cancel(job_id)
    steps.emulator.outage(status=503, operations=["batches.*"])
    steps.cancel(job_id)
    assert steps.job(job_id).state is JobState.RUNNING
    steps.emulator.end_outages()
    steps.pass_time()
    steps.cancel(job_id)
    assert poll_to_its_end(steps, job_id).state is JobState.CANCELLED


# Poll


def test_many_batches_are_polled_with_one_page(steps: Steps) -> None:
    ids = [steps.submitted() for _ in range(6)]
    for job_id in ids[:3]:
        steps.emulator.end(str(steps.job(job_id).batch_id))
    with steps.calls(batches_list=1, batches_retrieve=0):
        steps.poll(*ids)
    states = [steps.job(job_id).state for job_id in ids]
    assert states == [JobState.SUCCEEDED] * 3 + [JobState.RUNNING] * 3


def test_a_single_batch_is_polled_by_its_id(steps: Steps) -> None:
    job_id, other = steps.submitted(), steps.submitted()
    with steps.calls(batches_list=0, batches_retrieve=1):
        steps.poll(job_id)
    assert steps.job(job_id).checked_at > steps.job(other).checked_at  # type: ignore[operator]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_lists_will_do(steps: Steps, status: int) -> None:
    steps.emulator.outage(answer="status", status=status, operations=["batches.list"])
    lost = steps.batch()
    steps.emulator.outage(answer="status", status=500, operations=CREATE, count=1)
    steps.step(lost)
    steps.emulator.end_outages()
    steps.emulator.outage(answer="status", status=status, operations=["batches.list"])
    steps.pass_time()
    steps.step(lost)
    ids = [lost, steps.submitted(), steps.submitted()]
    for job_id in ids:
        steps.emulator.end(str(steps.job(job_id).batch_id))
    with steps.calls(batches_list=1, batches_retrieve=3):
        steps.poll(*ids)
    assert [steps.job(job_id).state for job_id in ids] == [JobState.SUCCEEDED] * 3


def test_one_search_finds_the_batches_of_all_that_search(steps: Steps) -> None:
    lost = [steps.batch() for _ in range(3)]
    steps.emulator.outage(answer="drop", after_acting=True, operations=CREATE, count=3)
    for job_id in lost:
        steps.step(job_id)
        steps.pass_time()
    with steps.calls(batches_list=1, batches_create=0):
        steps.step(lost[0])
    assert {steps.job(job_id).batch_id for job_id in lost} == {b["id"] for b in ours(steps)}
    assert len(ours(steps)) == 3


def test_a_page_tells_of_others_for_free(steps: Steps) -> None:
    one, two, other = (steps.submitted() for _ in range(3))
    steps.emulator.end(str(steps.job(other).batch_id))
    steps.poll(one, two)
    assert steps.job(other).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("job_age_s", "batch_age_s", "state"),
    [
        pytest.param(60, 60, JobState.RUNNING, id="young"),
        pytest.param(3_600, 60, JobState.RUNNING, id="young, of a job that had to wait"),
        pytest.param(3_600, 3_600, JobState.FAILED, id="old"),
    ],
)
def test_a_batch_that_openai_does_not_know(
    steps: Steps, job_age_s: int, batch_age_s: int, state: JobState
) -> None:
    unknown, known = steps.submitted(), steps.submitted()
    now_s = steps.runtime.store.run(records.time())
    steps.change(
        unknown,
        batch_id="batch_unknown",
        created_at=f"{now_s - job_age_s:.6f}",
        tried_at=f"{now_s - batch_age_s:.6f}",
    )
    steps.emulator.end(str(steps.job(known).batch_id))
    steps.poll(unknown, known)
    assert steps.job(unknown).state is state
    if state is JobState.FAILED:
        assert "OpenAI no longer has the batch batch_unknown." in steps.job(unknown).message
    assert steps.job(known).state is JobState.SUCCEEDED


def test_a_status_that_openai_has_not_told_of_is_harmless(steps: Steps) -> None:
    steps.emulator.configure(extra_status="paused", extra_status_s=600)
    job_id = steps.submitted()
    deadline = time.monotonic() + 10
    while steps.job(job_id).openai_status != "paused" and time.monotonic() < deadline:
        steps.poll(job_id)
    job = steps.job(job_id)
    assert (job.state, job.openai_status) == (JobState.RUNNING, "paused")
    steps.emulator.end(str(job.batch_id))
    steps.poll(job_id)
    assert steps.job(job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("answer", ["status", "drop", "garbage", "cut"])
def test_an_outage_changes_nothing_but_the_message(steps: Steps, answer: str, count: int) -> None:
    ids = [steps.submitted() for _ in range(count)]
    before = [steps.job(job_id) for job_id in ids]
    steps.emulator.outage(answer=answer, operations=["batches.list", "batches.retrieve"])
    steps.poll(*ids)
    for job, after in zip(before, map(steps.job, ids), strict=True):
        assert after.message.startswith(WAITING)
        same = {"message", "checked_at", "updated_at", "source", "history"}
        assert after.model_dump(exclude=same) == job.model_dump(exclude=same)
        assert after.checked_at > job.checked_at  # type: ignore[operator]
    steps.emulator.end_outages()
    steps.pass_time()
    steps.poll(*ids)
    assert all(steps.job(job_id).message == "" for job_id in ids)


def test_two_polls_of_a_credential_do_not_ask_twice(steps: Steps) -> None:
    job_id = steps.submitted()
    lease = f"poll:{steps.credential()}"
    steps.runtime.store.run(store_leases.acquire(lease, "somebody", ttl_s=60))
    with steps.calls(batches_list=0, batches_retrieve=0):
        steps.poll(job_id)
    assert steps.due_in_s(job_id) <= 1.1


def test_an_expired_batch_fails_and_keeps_its_part(steps: Steps) -> None:
    job_id = steps.submitted()
    steps.emulator.end(str(steps.job(job_id).batch_id), "expired", done_share=0.67)
    steps.poll(job_id)
    job = steps.job(job_id)
    assert job.state is JobState.FAILED
    assert job.message.startswith("The batch expired at OpenAI before it was finished; 2 of 3")
    assert job.output_file_id is not None
    assert job.output_file_id in job.message


# Waiting for capacity


def test_a_job_beyond_the_token_limit_waits_and_goes_again(steps: Steps) -> None:
    steps.emulator.next("failed", code="token_limit_exceeded")
    first, second = (steps.batch(config={"model": "gpt-test"}) for _ in range(2))
    steps.step(first)
    poll_until(steps, first, lambda job: job.batch_id is None)
    job = steps.job(first)
    assert job.state in LIVE
    assert job.message.startswith("Waiting for quota: OpenAI's limit of enqueued tokens")
    steps.step(second)
    assert len(ours(steps)) == 1, "a later job overtakes"
    steps.step(first)
    poll_until(steps, first, lambda job: job.stage is Stage.IN_PROGRESS)
    steps.step(second)
    assert steps.job(second).batch_id
    assert len(ours(steps)) == 3


def poll_until(steps: Steps, job_id: str, condition: Callable[[Job], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition(steps.job(job_id)):
        assert time.monotonic() < deadline, steps.job(job_id)
        steps.poll(job_id)


# Sweep


def test_the_sweep_sends_what_is_due_to_whoever_does_it(steps: Steps, file: Path) -> None:
    submitted = steps.submitted()
    steps.runtime.update(submitted, "test", due_in_s=0)
    cancelled = steps.submitted()
    steps.ask_to_cancel(cancelled)
    lost = steps.batch()
    up, down = steps.upload(str(file)), steps.download("/out")
    assert sorted(steps.sweep()) == sorted(
        [
            (Step.POLL, [submitted]),
            (Step.CANCEL, cancelled),
            (Step.SUBMIT, lost),
            (Step.UPLOAD, up),
            (Step.DOWNLOAD, down),
        ]
    )
    assert steps.sweep() == []


def test_a_message_that_is_lost_is_sent_again(make_steps: MakeSteps) -> None:
    steps = make_steps(lease_s=0.5)
    job_id = steps.batch()
    assert steps.sweep() == [(Step.SUBMIT, job_id)]
    assert steps.due_in_s(job_id) <= 0.5
    deadline = time.monotonic() + 10
    while not (sent := steps.sweep()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sent == [(Step.SUBMIT, job_id)]


def test_old_jobs_are_nudged_less_often(steps: Steps) -> None:
    job_id = steps.batch()
    now_s = steps.runtime.store.run(records.time())
    for age_s, wait_s in ((1, 5), (200, 100), (86_400, 600)):
        steps.change(job_id, created_at=f"{now_s - age_s:.6f}")
        steps.runtime.update(job_id, "test", due_in_s=0)
        assert steps.sweep() == [(Step.SUBMIT, job_id)]
        assert steps.due_in_s(job_id) == pytest.approx(wait_s, abs=2)


def test_due_batches_are_polled_together_by_credential(steps: Steps) -> None:
    credentials = [steps.credential(), steps.credential(group="other", key="key")]
    groups = [
        [steps.submitted(credential=credential) for _ in range(3)] for credential in credentials
    ]
    for job_id in (job_id for group in groups for job_id in group):
        steps.runtime.update(job_id, "test", due_in_s=0)
    sent = steps.sweep()
    assert [step for step, _ in sent] == [Step.POLL, Step.POLL]
    assert sorted(sorted(ids) for _, ids in sent) == sorted(map(sorted, groups))


def test_one_sweep_at_a_time(steps: Steps) -> None:
    steps.batch()
    steps.runtime.store.run(store_leases.acquire("sweep", "somebody", ttl_s=60))
    assert steps.sweep() == []


def test_jobs_that_ended_long_ago_are_forgotten(make_steps: MakeSteps) -> None:
    steps = make_steps(retention_s=60)
    old, young, live = steps.batch("file-1"), steps.batch("file-1"), steps.batch("file-1")
    for job_id in (old, young):
        steps.ask_to_cancel(job_id)
    long_ago_s = steps.runtime.store.run(records.time()) - 61
    for job_id in (old, live):
        steps.change(job_id, updated_at=f"{long_ago_s:.6f}")
        recent = f"{steps.runtime.settings.key_prefix}:recent"
        steps.runtime.store.redis.zadd(recent, {job_id: long_ago_s})
    steps.sweep()
    found = [steps.runtime.store.run(records.get(job_id)) for job_id in (old, young, live)]
    assert [job and job.id for job in found] == [None, young, live]


def test_a_job_whose_record_is_gone_is_no_longer_due(steps: Steps) -> None:
    job_id = steps.batch()
    steps.runtime.store.redis.delete(f"{steps.runtime.settings.key_prefix}:job:{job_id}")
    assert steps.sweep() == []
    assert steps.runtime.store.run(index.recent(10)) == []


def test_a_record_that_cannot_be_read_stops_nobody_else(steps: Steps) -> None:
    unreadable, job_id = steps.batch(), steps.batch()
    steps.change(unreadable, state="of-the-future")
    assert steps.sweep() == [(Step.SUBMIT, job_id)]
    raw: Any = steps.runtime.store.redis
    assert raw.hget(f"{steps.runtime.settings.key_prefix}:job:{unreadable}", "state")


def test_a_broker_that_is_away_loses_nothing(
    make_steps: MakeSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = make_steps(lease_s=0.5)
    job_id = steps.batch()

    def away(*_: object, **__: object) -> None:
        raise QueueUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(steps.notes, "send", away)
        assert steps.sweep() == []
    deadline = time.monotonic() + 10
    while not (sent := steps.sweep()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sent == [(Step.SUBMIT, job_id)]
