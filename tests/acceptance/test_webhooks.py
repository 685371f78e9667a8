"""OpenAI's webhooks end tasks whose batches would not be polled for minutes."""

import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.kit.flyte_client import Node, Task, inputs_of, template_of
from tests.kit.flyte_tasks import batch_task, requests
from tests.kit.stack import Stack

pytestmark = pytest.mark.timeout(180)

BATCHES = 25


@pytest.fixture(scope="module")
def pushed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with webhooks, which polls batches only every ten minutes."""
    with Stack(tmp_path_factory.mktemp("pushed"), webhooks=True) as stack:
        yield stack


@pytest.fixture
def pushed(pushed_stack: Stack) -> Iterator[Stack]:
    yield pushed_stack
    pushed_stack.heal()


def start_tasks(stack: Stack, count: int = BATCHES) -> list[tuple[Task, str]]:
    """Start tasks whose batches run until a test ends them; return tasks and batches."""
    stack.emulator.configure(in_progress_s=600)
    org = f"org-{uuid.uuid4().hex}"
    file_id = stack.emulator.upload(org, requests())
    template, inputs = template_of(batch_task(org)), inputs_of(input_file_id=file_id)
    tasks = [stack.flyte.create(template, inputs, Node(stack.blobs)) for _ in range(count)]
    return [(task, batch_of(task)) for task in tasks]


def batch_of(task: Task) -> str:
    """Wait for the batch of a task."""
    answer = task.until(lambda answer: "batch_id" in answer.custom_info, "the batch")
    return str(answer.custom_info["batch_id"])


def end_all(stack: Stack, tasks: list[tuple[Task, str]]) -> None:
    """Complete all batches, several at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stack.emulator.end, (batch_id for _, batch_id in tasks)))


def test_webhooks_end_all_tasks_before_any_poll(pushed: Stack) -> None:
    tasks = start_tasks(pushed)
    end_all(pushed, tasks)
    for task, batch_id in tasks:
        assert task.succeeds()["id"] == batch_id
    sources = {pushed.record(job_id)["source"] for job_id in pushed.job_ids()}
    assert sources == {"webhook"}


def test_duplicated_and_reordered_webhooks_are_harmless(pushed: Stack) -> None:
    pushed.emulator.configure(webhook_duplicate_share=1, webhook_reorder_s=1)
    tasks = start_tasks(pushed, 8)
    for number, (_, batch_id) in enumerate(tasks):
        pushed.emulator.end(batch_id, ("completed", "failed", "expired", "cancelled")[number % 4])
    phases = [task.follow().answer.phase for task, _ in tasks]
    assert phases == ["SUCCEEDED", "FAILED", "FAILED", "FAILED"] * 2


def test_a_restarted_gateway_receives_missed_webhooks(pushed: Stack) -> None:
    tasks = start_tasks(pushed, 4)
    pushed.gateway.kill()
    end_all(pushed, tasks)
    pushed.heal()
    for task, _ in tasks:
        task.succeeds()


def test_webhooks_are_repeated_after_an_outage_of_redis(pushed: Stack) -> None:
    tasks = start_tasks(pushed, 4)
    pushed.redis_server.signal(signal.SIGSTOP)
    try:
        end_all(pushed, tasks)
        with httpx2.Client(base_url=pushed.gateway_url, timeout=20) as http:
            assert http.get("/readyz").status_code == 503
            assert http.get("/healthz").status_code == 200
    finally:
        pushed.redis_server.signal(signal.SIGCONT)
    for task, _ in tasks:
        task.succeeds()
