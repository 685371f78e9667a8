"""Flyte deletes a task. After a timeout another attempt follows and takes over the batch; otherwise
the batch is cancelled."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.kit.flyte_client import FlyteClient, Task
from tests.kit.flyte_tasks import TaskStarter, requests
from tests.kit.processes import until
from tests.kit.stack import Stack

WithDelay = Callable[[float], TaskStarter]


@pytest.fixture
def with_delay(stack: Stack, start: TaskStarter) -> Iterator[WithDelay]:
    """Starts tasks through a connector with this delay, in seconds."""
    with ExitStack() as clients:

        def make(delay_s: float) -> TaskStarter:
            env = {"BATCHFLOW_DELETE_DELAY_S": str(delay_s)}
            connector = stack.make_connector("with-delay", env=env)
            stack.extra(connector)
            return replace(start, flyte=clients.enter_context(FlyteClient(connector.address)))

        yield make


def running(start: TaskStarter, file_id: str, *, in_progress_s: float) -> Task:
    start.emulator.configure(in_progress_s=in_progress_s)
    task = start.batch(file_id)
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    return task


def history(stack: Stack, task: Task) -> str:
    return stack.record(task.get().custom_info["job_id"])["history"]


def test_the_attempt_after_a_timeout_takes_over_the_batch(
    stack: Stack, with_delay: WithDelay
) -> None:
    start = with_delay(60)
    file_id = start.emulator.upload(start.org, requests())
    first = running(start, file_id, in_progress_s=3)
    first.delete()
    second = start.again().batch(file_id)
    # Repeated by a FlytePropeller that did not reach FlyteAdmin before.
    first.delete()
    assert second.get().phase == "RUNNING"
    assert second.succeeds()["id"] == start.batch_ids()[0]
    assert [batch["status"] for batch in start.batches()] == ["completed"]
    told = history(stack, second)
    assert told.count("Flyte asked to cancel the job") == 1
    assert "Attempt 1 of the task took over this job" in told


def test_a_task_that_stays_deleted_is_cancelled_once(stack: Stack, with_delay: WithDelay) -> None:
    start = with_delay(1)
    task = running(start, start.emulator.upload(start.org, requests()), in_progress_s=60)
    for _ in range(12):
        task.delete()
    job_id = task.get().custom_info["job_id"]
    until(lambda: stack.record(job_id)["state"] == "cancelled", "the end of the job")
    assert [batch["status"] for batch in start.batches()] == ["cancelled"]
    told = stack.record(job_id)["history"]
    assert told.count("Flyte asked to cancel the job") == 1
    # Flyte does not wait for its end.
    assert stack.redis.zscore(stack.key("uncollected"), job_id) is None


def test_the_attempt_after_a_cancellation_starts_anew(start: TaskStarter) -> None:
    start.emulator.configure(cancelling_s=2)
    file_id = start.emulator.upload(start.org, requests())
    first = running(start, file_id, in_progress_s=60)
    first.delete()
    start.emulator.configure(in_progress_s=0.3)
    second = start.again().batch(file_id)
    assert second.succeeds()["id"] == start.batch_ids()[1]
    assert "Cancelled by Flyte" in first.fails()
    assert [batch["status"] for batch in start.batches()] == ["cancelled", "completed"]
