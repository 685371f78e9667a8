"""Processes die, Redis loses data or is unavailable, OpenAI is down: each job still has one file or
one batch, and its task succeeds."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import psutil
import pytest
from batchflow_workers.files.validating_reader import AHEAD_BYTES

from tests.kit.emulator import Emulator
from tests.kit.flyte_client import PATIENCE_S, FlyteClient, Node, Task, file_inputs, inputs_of
from tests.kit.flyte_client import template_of as template
from tests.kit.flyte_tasks import (
    batch_task,
    custom_ids,
    download_task,
    put,
    requests,
    upload_task,
)
from tests.kit.processes import Process, until
from tests.kit.stack import Stack

LIVE = ("QUEUED", "INITIALIZING", "RUNNING")


def start_upload(flyte: FlyteClient, org: str, node: Node) -> Task:
    """Upload three requests."""
    uri = put(node.folder, requests(), f"{node.execution}.jsonl")
    return flyte.create(template(upload_task(org)), file_inputs(uri), node)


def start_batch(flyte: FlyteClient, org: str, node: Node, file_id: str) -> Task:
    """Run a batch of an uploaded file."""
    return flyte.create(template(batch_task(org)), inputs_of(input_file_id=file_id), node)


def pool_children(worker: Process) -> list[psutil.Process]:
    """The pool processes of a worker, which run its steps."""
    return psutil.Process(worker.pid).children()


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """Suspend a process during the block: it keeps its connections and answers nothing."""
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


# -- workers --------------------------------------------------------------------------------------


def test_a_worker_is_killed_in_two_steps_and_the_queues_are_emptied(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    file_id = emulator.upload(org, requests(2))
    # OpenAI has executed both calls when the worker dies, but has not responded yet.
    for operation in ("files.create", "batches.create"):
        emulator.outage(answer="normal", delay_s=5, operations=[operation], count=1)
    upload = start_upload(flyte, org, node)
    batch = start_batch(flyte, org, replace(node, node="n1"), file_id)
    until(lambda: len(emulator.uploads(org)) == 2, "the file to be at OpenAI")
    until(lambda: emulator.batches(org), "the batch to be at OpenAI")
    stack.worker.kill()
    assert upload.get().phase in LIVE
    assert batch.get().phase in LIVE
    # The message of this job exists only in a queue.
    other = f"{org}-other"
    other_file_id = emulator.upload(other, requests())
    lost = start_batch(flyte, other, replace(node, node="n2"), other_file_id)
    queues = [f"{stack.key_prefix}.{name}" for name in ("submit", "poll", "files")]
    assert stack.redis.llen(queues[0]) == 1
    stack.redis.delete(*queues)
    stack.worker.start()

    sent = upload.succeeds()
    assert [file["id"] for file in emulator.uploads(org)] == [file_id, sent]
    made = batch.succeeds()
    assert [entry["id"] for entry in emulator.batches(org)] == [made["id"]]
    assert lost.succeeds()["id"] == emulator.batches(other)[0]["id"]
    assert len(emulator.batches(other)) == 1


def test_a_pool_process_is_killed_before_openai_has_the_request(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    file_id = emulator.upload(org, requests(2))
    # The response is an error, so nothing was executed, and arrives after the process is dead.
    emulator.outage(answer="status", delay_s=5, operations=["batches.create"], count=1)
    task = start_batch(flyte, org, node, file_id)
    job_id = task.get().custom_info["job_id"]
    until(lambda: stack.record(job_id).get("tries") == "1", "the request to go out")
    for child in pool_children(stack.worker):
        child.kill()
    made = task.succeeds()
    assert [entry["id"] for entry in emulator.batches(org)] == [made["id"]]


def test_a_worker_is_killed_while_it_sends_a_file(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    content = requests(400, user="x" * 100_000)
    uri = put(node.folder, content, "large.jsonl")
    # The socket buffers take some megabytes, and OpenAI none.
    with stopped(stack.emulator_process):
        task = flyte.create(template(upload_task(org)), file_inputs(uri), node)
        job_id = task.get().custom_info["job_id"]
        until(lambda: stack.record(job_id).get("tries") == "1", "the request to be made")
        # Validation read ahead; a position before that means that sending has begun.
        until(lambda: 0 < read_position(stack.worker, uri) < AHEAD_BYTES, "the file to be sent")
        stack.worker.kill()
    assert task.get().phase in LIVE
    stack.worker.start()
    sent = task.succeeds()
    assert [(file["id"], file["bytes"]) for file in emulator.uploads(org)] == [(sent, len(content))]


def read_position(worker: Process, path: str) -> int:
    """A worker's position in a file, in bytes; 0 if the file is not open."""
    positions = [0]
    for process in pool_children(worker):
        positions += [file.position for file in process.open_files() if file.path == path]
    return max(positions)


def test_a_worker_with_threads_can_be_stopped_during_a_transfer(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    stack.worker.stop()
    threads = stack.make_worker("threads", "--pool", "threads", env=stack.worker_env())
    stack.extra(threads)
    emulator.outage(answer="normal", delay_s=15, operations=["files.create"], count=1)
    upload = start_upload(flyte, org, node)
    until(lambda: emulator.uploads(org), "the file to be at OpenAI")
    # The first signal lets steps finish, the second one does not.
    threads.signal(signal.SIGQUIT)
    until(lambda: "Soft Shutdown" in threads.log(), "the soft shutdown")
    threads.signal(signal.SIGQUIT)
    assert threads.wait(timeout_s=10) == 0
    stack.worker.start()
    assert [file["id"] for file in emulator.uploads(org)] == [upload.succeeds()]


def test_two_workers_and_two_beats_do_not_duplicate_work(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    stack.extra(stack.make_worker("second", env=stack.worker_env()), stack.make_beat("beat-2"))
    emulator.configure(in_progress_s=3)
    task = start_batch(flyte, org, node, emulator.upload(org, requests()))
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    before = emulator.calls("batches.retrieve") + emulator.calls("batches.list")
    checked = stack.record(task.get().custom_info["job_id"])["checked_at"]
    made = task.succeeds()
    after = emulator.calls("batches.retrieve") + emulator.calls("batches.list")
    final = stack.record(task.get().custom_info["job_id"])["checked_at"]
    # One poll per interval of 0.3 s, by either worker, and a margin for the sweep's clock.
    assert after - before <= (float(final) - float(checked)) / 0.3 + 1.5
    assert [entry["id"] for entry in emulator.batches(org)] == [made["id"]]


def test_beat_stops_for_a_while(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    stack.beat.stop()
    task = start_batch(flyte, org, node, emulator.upload(org, requests()))
    until(
        lambda: [b["status"] for b in emulator.batches(org)] == ["completed"],
        "the batch to complete at OpenAI",
    )
    assert task.get().phase in LIVE
    stack.beat.start()
    assert task.succeeds()["id"] == emulator.batches(org)[0]["id"]


# -- the connector --------------------------------------------------------------------------------


def test_the_connector_restarts(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    emulator.configure(in_progress_s=2)
    task = start_batch(flyte, org, node, emulator.upload(org, requests()))
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    stack.connector.kill()
    stack.connector.start()
    stack.connector.await_ready()
    answer = flyte.get(task.meta, task.task_type, wait=True)
    assert answer.phase in ("RUNNING", "SUCCEEDED")
    assert task.succeeds()["id"] == emulator.batches(org)[0]["id"]


# -- OpenAI ---------------------------------------------------------------------------------------


def test_openai_is_down_for_seconds(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    emulator.configure(in_progress_s=1)
    running = start_batch(flyte, org, node, emulator.upload(org, requests()))
    running.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    emulator.outage(answer="status", status=503)
    upload = start_upload(flyte, org, replace(node, node="n1"))
    waiting = upload.until(
        lambda answer: (
            "Waiting to call OpenAI again" in answer.message
            or "Waiting to call OpenAI again" in answer.custom_info.get("message", "")
        ),
        "a message about the outage",
    )
    assert waiting.phase in LIVE
    # For longer than the job would take otherwise, every get returns quickly.
    for _ in range(20):
        assert running.get(timeout_s=2).phase == "RUNNING"
        assert upload.get(timeout_s=2).phase in LIVE
    emulator.end_outages()
    sent = upload.succeeds()
    assert running.succeeds()["id"] == emulator.batches(org)[0]["id"]
    assert [file["id"] for file in emulator.uploads(org)][1:] == [sent]


@pytest.mark.parametrize(
    "outage",
    [
        {"answer": "status", "status": 500},
        {"answer": "drop"},
        {"answer": "garbage"},
        {"answer": "cut"},
    ],
    ids=lambda outage: str(outage["answer"]),
)
def test_the_response_to_a_create_is_lost(
    flyte: FlyteClient, emulator: Emulator, org: str, node: Node, outage: dict[str, Any]
) -> None:
    file_id = emulator.upload(org, requests())
    for operation in ("batches.create", "files.create"):
        emulator.outage(**outage, after_acting=True, operations=[operation], count=1)
    upload = start_upload(flyte, org, node)
    batch = start_batch(flyte, org, replace(node, node="n1"), file_id)
    made = batch.succeeds()
    assert [entry["id"] for entry in emulator.batches(org)] == [made["id"]]
    sent = upload.succeeds()
    assert [file["id"] for file in emulator.uploads(org)] == [file_id, sent]


@pytest.mark.parametrize("answer", ["cut", "garbage", "drop"])
def test_a_download_is_malformed(
    flyte: FlyteClient, emulator: Emulator, org: str, node: Node, answer: str
) -> None:
    result = start_batch(flyte, org, node, emulator.upload(org, requests(50))).succeeds()
    emulator.outage(answer=answer, operations=["files.content"], count=1)
    inputs = inputs_of(batch_endpoint_result=result)
    files = flyte.create(template(download_task(org)), inputs, replace(node, node="n1")).succeeds()
    assert len(custom_ids(files["output_file"]["path"])) == 50


# -- Redis ----------------------------------------------------------------------------------------


def test_redis_is_emptied(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    emulator.configure(in_progress_s=3)
    sent = start_upload(flyte, org, node)
    file_id = sent.succeeds()
    task = start_batch(flyte, org, replace(node, node="n1"), file_id)
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    stack.redis.flushdb()
    answer = task.get()
    assert answer.phase == "RUNNING"
    assert "Redis lost this job's record" in answer.message
    # The result of the upload is recovered, too.
    assert sent.succeeds() == file_id
    made = task.succeeds()
    assert [entry["id"] for entry in emulator.batches(org)] == [made["id"]]
    assert [file["id"] for file in emulator.uploads(org)] == [file_id]


def test_delete_after_redis_was_emptied_cancels_the_batch(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    emulator.configure(in_progress_s=60)
    task = start_batch(flyte, org, node, emulator.upload(org, requests()))
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    stack.redis.flushdb()
    task.delete()
    assert "Cancelled by Flyte" in task.fails()
    assert [entry["status"] for entry in emulator.batches(org)] == ["cancelled"]


def test_redis_restarts_empty(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    emulator.configure(in_progress_s=2)
    task = start_batch(flyte, org, node, emulator.upload(org, requests()))
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    # A step runs meanwhile, so that its message is not acknowledged.
    emulator.outage(answer="normal", delay_s=3, operations=["files.create"], count=1)
    upload = start_upload(flyte, org, replace(node, node="n1"))
    until(lambda: len(emulator.uploads(org)) == 2, "the file to be at OpenAI")
    stack.redis_server.stop()
    assert_degraded(flyte, task, org, node)
    stack.redis_server.start()
    stack.redis_server.await_ready()
    made = task.succeeds()
    assert [entry["id"] for entry in emulator.batches(org)] == [made["id"]]
    assert upload.succeeds() == emulator.uploads(org)[1]["id"]
    assert len(emulator.uploads(org)) == 2
    ended = [process.name for process in stack.processes if not process.running]
    assert not ended, f"exited instead of waiting for Redis: {ended}"


def test_redis_hangs(
    stack: Stack, flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> None:
    emulator.configure(in_progress_s=1)
    task = start_batch(flyte, org, node, emulator.upload(org, requests()))
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    with stopped(stack.redis_server):
        assert_degraded(flyte, task, org, node)
    made = task.succeeds()
    assert [entry["id"] for entry in emulator.batches(org)] == [made["id"]]


def assert_degraded(flyte: FlyteClient, task: Task, org: str, node: Node) -> None:
    """Check what Flyte receives while Redis is unavailable, within its deadline for a call."""
    answer = task.get(timeout_s=PATIENCE_S)
    assert answer.phase == "RUNNING"
    assert "status store unreachable" in answer.message
    with pytest.raises(grpc.RpcError) as refused:
        start_batch(flyte, org, replace(node, node="other"), "file-1")
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert "Redis can't be reached" in str(refused.value.details())
