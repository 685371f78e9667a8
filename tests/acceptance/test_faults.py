"""Processes die, Redis loses data or is unavailable, OpenAI is down: each job still has one file or
one batch, and its task succeeds."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from batchflow_workers.files.validating_reader import AHEAD_BYTES

from tests.kit.emulator import Emulator
from tests.kit.flyte_client import PATIENCE_S, Answer, FlyteClient, Task
from tests.kit.flyte_tasks import TaskStarter, custom_ids, requests
from tests.kit.processes import Process, RedisServer, until
from tests.kit.stack import Stack

LIVE = ("INITIALIZING", "WAITING_FOR_RESOURCES", "RUNNING")


def running_batch(start: TaskStarter, *, in_progress_s: float) -> Task:
    """A task whose batch is in progress, for this time."""
    start.emulator.configure(in_progress_s=in_progress_s)
    task = start.batch()
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    return task


def until_tried(stack: Stack, task: Task) -> None:
    """Wait until the job of a task has sent its request to OpenAI."""
    job_id = task.get().custom_info["job_id"]
    until(lambda: stack.record(job_id).get("tries") == "1", "the request to be sent")


def assert_has_one_batch(start: TaskStarter, task: Task) -> None:
    """Check that a task succeeds, and that its batch is the only one."""
    assert [task.succeeds()["id"]] == start.batch_ids()


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
    stack: Stack, emulator: Emulator, start: TaskStarter
) -> None:
    file_id = emulator.upload(start.org, requests(2))
    # OpenAI has executed both calls when the worker dies, but has not responded yet.
    for operation in ("files.create", "batches.create"):
        emulator.outage(answer="normal", delay_s=5, operations=[operation], count=1)
    upload, batch = start.upload(), start.at("n1").batch(file_id)
    until(lambda: len(start.upload_ids()) == 2, "the file to be at OpenAI")
    until(start.batches, "the batch to be at OpenAI")
    stack.worker.kill()
    assert upload.get().phase in LIVE
    assert batch.get().phase in LIVE
    # The message of this job exists only in a queue.
    other = start.at("n2", org=f"{start.org}-other")
    lost = other.batch()
    queues = [f"{stack.key_prefix}.{name}" for name in ("submit", "poll", "files")]
    assert stack.redis.llen(queues[0]) == 1
    stack.redis.delete(*queues)
    stack.worker.start()

    assert [file_id, upload.succeeds()] == start.upload_ids()
    assert_has_one_batch(start, batch)
    assert_has_one_batch(other, lost)


def test_a_pool_process_is_killed_before_openai_has_the_request(
    stack: Stack, emulator: Emulator, start: TaskStarter
) -> None:
    # The response is an error, so nothing was executed, and arrives after the process is dead.
    emulator.outage(answer="status", delay_s=5, operations=["batches.create"], count=1)
    task = start.batch()
    until_tried(stack, task)
    for child in pool_children(stack.worker):
        child.kill()
    assert_has_one_batch(start, task)


def test_a_worker_is_killed_while_it_sends_a_file(
    stack: Stack, emulator: Emulator, start: TaskStarter
) -> None:
    content = requests(400, user="x" * 100_000)
    # The socket buffers take some megabytes, and OpenAI none.
    with stopped(stack.emulator_process):
        task = start.upload(content)
        until_tried(stack, task)
        # Validation read ahead; a position before that means that sending has begun.
        until(lambda: 0 < read_position(stack) < AHEAD_BYTES, "the file to be sent")
        stack.worker.kill()
    assert task.get().phase in LIVE
    stack.worker.start()
    sent = task.succeeds()
    files = emulator.uploads(start.org)
    assert [(file["id"], file["bytes"]) for file in files] == [(sent, len(content))]


def read_position(stack: Stack) -> int:
    """The worker's position in a file of the blob storage, in bytes; 0 if none is open."""
    files = [file for child in pool_children(stack.worker) for file in child.open_files()]
    return max([0, *(file.position for file in files if file.path.startswith(f"{stack.blobs}/"))])


def test_a_worker_with_threads_can_be_stopped_during_a_transfer(
    stack: Stack, emulator: Emulator, start: TaskStarter
) -> None:
    stack.worker.stop()
    patient = stack.worker_env() | {"BATCHFLOW_OPENAI_TIMEOUT_S": "20"}
    threads = stack.make_worker("threads", "--pool", "threads", env=patient)
    stack.extra(threads)
    emulator.outage(answer="normal", delay_s=15, operations=["files.create"], count=1)
    upload = start.upload()
    until(start.upload_ids, "the file to be at OpenAI")
    # The first signal lets steps finish, the second one does not.
    threads.signal(signal.SIGQUIT)
    until(lambda: "Soft Shutdown" in threads.log(), "the soft shutdown")
    threads.signal(signal.SIGQUIT)
    assert threads.wait(timeout_s=10) == 0
    stack.worker.start()
    assert [upload.succeeds()] == start.upload_ids()


def test_two_workers_and_two_beats_do_not_duplicate_work(
    stack: Stack, emulator: Emulator, start: TaskStarter
) -> None:
    def polls() -> int:
        return emulator.calls("batches.retrieve") + emulator.calls("batches.list")

    def checked_at() -> float:
        return float(stack.record(task.get().custom_info["job_id"])["checked_at"])

    stack.extra(stack.make_worker("second", env=stack.worker_env()), stack.make_beat("beat-2"))
    task = running_batch(start, in_progress_s=3)
    before, checked_s = polls(), checked_at()
    made = task.succeeds()
    # One poll per interval of 0.3 s, by either worker, and a margin for the sweep's clock.
    assert polls() - before <= (checked_at() - checked_s) / 0.3 + 1.5
    assert [made["id"]] == start.batch_ids()


def test_beat_stops_for_a_while(stack: Stack, start: TaskStarter) -> None:
    stack.beat.stop()
    task = start.batch()
    until(
        lambda: [batch["status"] for batch in start.batches()] == ["completed"],
        "the batch to complete at OpenAI",
    )
    assert task.get().phase in LIVE
    stack.beat.start()
    assert_has_one_batch(start, task)


# -- OpenAI ---------------------------------------------------------------------------------------


def test_openai_is_down_for_seconds(emulator: Emulator, start: TaskStarter) -> None:
    running = running_batch(start, in_progress_s=1)
    emulator.outage(answer="status", status=503)
    upload = start.at("n1").upload()
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
    assert_has_one_batch(start, running)
    assert start.upload_ids()[1:] == [sent]


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
    emulator: Emulator, start: TaskStarter, outage: dict[str, Any]
) -> None:
    file_id = emulator.upload(start.org, requests())
    for operation in ("batches.create", "files.create"):
        emulator.outage(**outage, after_acting=True, operations=[operation], count=1)
    upload, batch = start.upload(), start.at("n1").batch(file_id)
    assert_has_one_batch(start, batch)
    assert [file_id, upload.succeeds()] == start.upload_ids()


def test_a_download_is_malformed(emulator: Emulator, start: TaskStarter) -> None:
    result = start.batch(emulator.upload(start.org, requests(50))).succeeds()
    emulator.outage(answer="garbage", operations=["files.content"], count=1)
    files = start.at("n1").download(result).succeeds()
    assert len(custom_ids(files["output_file"]["path"])) == 50


# -- Redis ----------------------------------------------------------------------------------------


def test_redis_is_emptied(stack: Stack, emulator: Emulator, start: TaskStarter) -> None:
    emulator.configure(in_progress_s=3)
    sent = start.upload()
    file_id = sent.succeeds()
    task = start.at("n1").batch(file_id)
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    stack.redis.flushdb()
    answer = task.get()
    assert answer.phase == "RUNNING"
    assert "Redis lost this job's record" in answer.message
    # The result of the upload is recovered, too.
    assert sent.succeeds() == file_id
    assert_has_one_batch(start, task)
    assert start.upload_ids() == [file_id]


def test_delete_after_redis_was_emptied_cancels_the_batch(stack: Stack, start: TaskStarter) -> None:
    task = running_batch(start, in_progress_s=60)
    stack.redis.flushdb()
    task.delete()
    assert "Cancelled by Flyte" in task.fails()
    assert [batch["status"] for batch in start.batches()] == ["cancelled"]


def test_redis_restarts_empty(stack: Stack, emulator: Emulator, start: TaskStarter) -> None:
    task = running_batch(start, in_progress_s=2)
    # A step runs meanwhile, so that its message is not acknowledged.
    emulator.outage(answer="normal", delay_s=3, operations=["files.create"], count=1)
    upload = start.at("n1").upload()
    until(lambda: len(start.upload_ids()) == 2, "the file to be at OpenAI")
    stack.redis_server.stop()
    created = assert_degraded(task, start.at("other", org=f"{start.org}-other"))
    stack.redis_server.start()
    stack.redis_server.await_ready()
    assert_has_one_batch(*created)
    assert_has_one_batch(start, task)
    assert [upload.succeeds()] == start.upload_ids()[1:]
    ended = [process.name for process in stack.processes if not process.running]
    assert not ended, f"exited instead of waiting for Redis: {ended}"


def test_redis_hangs(stack: Stack, start: TaskStarter) -> None:
    task = running_batch(start, in_progress_s=1)
    with stopped(stack.redis_server):
        created = assert_degraded(task, start.at("other", org=f"{start.org}-other"))
    assert_has_one_batch(*created)
    assert_has_one_batch(start, task)


def test_a_job_that_was_created_without_redis_runs_once_however_many_gets_ask(
    stack: Stack, start: TaskStarter
) -> None:
    file_id = start.emulator.upload(start.org, requests())
    stack.redis_server.stop()
    tasks = [start.batch(file_id) for _ in range(2)]
    stack.redis_server.start()
    stack.redis_server.await_ready()
    stack.make_store_old()
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda number: tasks[number % 2].get(), range(40)))
    assert {answer.phase for answer in answers} <= {"INITIALIZING", "RUNNING", "SUCCEEDED"}
    assert not [answer for answer in answers if "lost this job's record" in answer.message]
    for task in tasks:
        assert_has_one_batch(start, task)


def test_a_later_attempt_that_was_created_without_redis_is_the_next_generation(
    stack: Stack, start: TaskStarter
) -> None:
    file_id = start.emulator.upload(start.org, requests())
    start.emulator.next("expired", done_share=0.0)
    first = start.batch(file_id)
    first.fails()
    with stopped(stack.redis_server):
        second = start.again().batch(file_id)
    assert second.succeeds()["id"] == start.batch_ids()[1]
    assert second.get().custom_info["job_id"] == f"{first.get().custom_info['job_id']}-2"
    assert len(start.batches()) == 2


def test_a_task_that_was_created_without_redis_can_be_deleted(
    stack: Stack, start: TaskStarter
) -> None:
    file_id = start.emulator.upload(start.org, requests())
    with stopped(stack.redis_server):
        task = start.batch(file_id)
    task.delete()
    assert "Cancelled by Flyte" in task.fails()
    assert not start.batches()


def test_many_gets_are_answered_in_time_while_redis_hangs(stack: Stack, start: TaskStarter) -> None:
    task = running_batch(start, in_progress_s=1)

    def get(_: int) -> tuple[Answer, float]:
        asked_at = time.monotonic()
        answer = task.get(timeout_s=2 * PATIENCE_S)
        return answer, time.monotonic() - asked_at

    with ThreadPoolExecutor(300) as threads, stopped(stack.redis_server):
        answers = list(threads.map(get, range(300)))
    assert {answer.phase for answer, _ in answers} == {"RUNNING"}
    # The connector waits for four seconds; this machine may be busy, and Flyte waits for ten.
    assert max(seconds for _, seconds in answers) < PATIENCE_S
    assert_has_one_batch(start, task)


def test_the_broker_hangs(stack: Stack, start: TaskStarter, tmp_path: Path) -> None:
    broker = RedisServer(tmp_path)
    stack.extra(broker)
    connector = stack.make_connector("without-broker", env={"BATCHFLOW_BROKER_URL": broker.url})
    stack.extra(connector)
    with FlyteClient(connector.address) as flyte, stopped(broker):
        before_s = time.monotonic()
        others = [replace(start.at(f"n{number}"), flyte=flyte).batch() for number in range(4)]
        # Only the first one waits for the broker.
        assert time.monotonic() - before_s < PATIENCE_S
        for task in others:
            task.succeeds()
    assert len(start.batches()) == 4


def assert_degraded(task: Task, start: TaskStarter) -> tuple[TaskStarter, Task]:
    """Check what Flyte receives while Redis is unavailable, within its deadline for a call; returns
    a task that was created meanwhile."""
    answer = task.get(timeout_s=PATIENCE_S)
    assert answer.phase == "RUNNING"
    assert "status store unreachable" in answer.message
    created = start.batch()
    answer = created.get(timeout_s=PATIENCE_S)
    assert (answer.phase, answer.message) == ("INITIALIZING", "status store unreachable")
    return start, created
