"""Flyte's backend loses no task while OpenAI, Redis or the connector is down. With its defaults, it
stops asking after six failed gets, and a failed create fails a task for good."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.kit.emulator import Emulator
from tests.kit.flyte_backend import FlyteBackend, History
from tests.kit.flyte_client import FlyteClient, file_inputs, inputs_of, template_of
from tests.kit.flyte_settings import DEADLINE_S, MAX_SYSTEM_FAILURES, SERVICE_CONFIG
from tests.kit.flyte_tasks import (
    TaskStarter,
    batch_task,
    custom_ids,
    download_task,
    put,
    requests,
    upload_task,
)
from tests.kit.processes import until
from tests.kit.stack import Stack

pytestmark = pytest.mark.timeout(240)

CHAINS = 4
REQUESTS = 4
#: A thirtieth of Flyte's default; the outages are as much shorter than real ones.
RESYNC_S = 1.0
#: The starts of two chains are this far apart, so that a fault meets them at different steps.
STAGGER_S = 0.75
#: The limit on a test, in seconds.
_MAX_S = 120.0


class Chains:
    """Concurrent chains of an upload, a batch and a download, and the check of their results."""

    def __init__(self, start: TaskStarter) -> None:
        self._start = start

    def run(
        self,
        fault: Callable[[], None],
        after_s: float,
        backend: FlyteBackend | None = None,
    ) -> list[History]:
        """Run all chains, and cause a fault ``after_s`` seconds after their start."""
        backend = backend or FlyteBackend(self._start.flyte, resync_s=RESYNC_S)
        backend.gives_up_at = time.monotonic() + _MAX_S
        timer = threading.Timer(after_s, fault)
        with ThreadPoolExecutor(CHAINS) as pool:
            futures = [pool.submit(self._run_one, backend, number) for number in range(CHAINS)]
            timer.start()
            histories = [history for future in futures for history in future.result()]
        timer.join()
        return histories

    def _run_one(self, backend: FlyteBackend, number: int) -> list[History]:
        org, node = self._start.org, self._start.node
        node = replace(node, execution=f"{node.execution}-{number}")
        uri = put(node.folder, requests(REQUESTS), f"{number}.jsonl")
        time.sleep(number * STAGGER_S)
        run = backend.run
        upload = run("upload", template_of(upload_task(org)), file_inputs(uri), node)
        if not upload.succeeded:
            return [upload]
        file_id = inputs_of(input_file_id=upload.result)
        batch = run("batch", template_of(batch_task(org)), file_id, replace(node, node="n1"))
        if not batch.succeeded:
            return [upload, batch]
        result = inputs_of(batch_endpoint_result=batch.result)
        node = replace(node, node="n2")
        return [upload, batch, run("download", template_of(download_task(org)), result, node)]

    def check(self, histories: list[History]) -> None:
        """Check that all tasks succeeded, without duplicates at OpenAI and without lost lines."""
        assert [h for h in histories if not h.succeeded] == []
        assert len(histories) == 3 * CHAINS
        assert [h.retryable_failures for h in histories if h.retryable_failures] == []
        assert len(self._start.upload_ids()) == CHAINS
        assert [batch["status"] for batch in self._start.batches()] == ["completed"] * CHAINS
        for download in [h for h in histories if h.name == "download"]:
            found = custom_ids(download.result["output_file"]["path"])
            assert found == [f"r-{n}" for n in range(REQUESTS)]
            assert download.result["error_file"] is None


@pytest.fixture
def chains(start: TaskStarter) -> Chains:
    """Chains in an organization of their own."""
    start.emulator.configure(in_progress_s=1.5)
    return Chains(start)


@pytest.mark.parametrize("answer", [{"status": 503}, {"status": 429}, {"answer": "drop"}])
def test_openai_is_down(chains: Chains, emulator: Emulator, answer: dict[str, object]) -> None:
    histories = chains.run(lambda: emulator.outage(**answer, duration_s=5), after_s=2)
    chains.check(histories)
    assert [h.failed_gets + h.failed_creates for h in histories] == [[]] * len(histories)


def test_openai_hangs(chains: Chains, stack: Stack) -> None:
    def hang() -> None:
        stack.emulator_process.signal(signal.SIGSTOP)
        time.sleep(5)
        stack.emulator_process.signal(signal.SIGCONT)

    histories = chains.run(hang, after_s=2)
    chains.check(histories)
    assert [h.failed_gets + h.failed_creates for h in histories] == [[]] * len(histories)


@pytest.mark.parametrize("persistent", [True, False], ids=["with its data", "empty"])
def test_redis_restarts(chains: Chains, stack: Stack, persistent: bool) -> None:
    def restart() -> None:
        if persistent:
            stack.redis.save()
        stack.redis_server.kill()
        time.sleep(4)
        stack.redis_server.start()

    try:
        histories = chains.run(restart, after_s=2)
    finally:
        (stack.folder / "dump.rdb").unlink(missing_ok=True)
    chains.check(histories)
    assert [h.failed_gets + h.failed_creates for h in histories] == [[]] * len(histories)


def test_no_connector_runs_for_a_while(chains: Chains, stack: Stack) -> None:
    def restart() -> None:
        stack.connector.kill()
        time.sleep(8)
        stack.connector.start()

    with FlyteClient(stack.connector.address, SERVICE_CONFIG) as client:
        patient = FlyteBackend(
            client,
            resync_s=RESYNC_S,
            deadline_s=DEADLINE_S,
            max_system_failures=MAX_SYSTEM_FAILURES,
        )
        chains.check(chains.run(restart, after_s=3, backend=patient))


def test_flyte_forgets_a_task_until_it_is_restarted(stack: Stack, start: TaskStarter) -> None:
    start.emulator.configure(in_progress_s=2)
    inputs = inputs_of(input_file_id=start.emulator.upload(start.org, requests()))
    template = template_of(batch_task(start.org))
    backend = FlyteBackend(start.flyte, resync_s=0.2)
    backend.gives_up_at = time.monotonic() + _MAX_S
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(backend.run, "batch", template, inputs, start.node)
        until(lambda: shows(backend, "RUNNING"), "the batch to be in progress")
        stack.connector.kill()
        until(lambda: backend.histories[0].is_forgotten, "six failed gets")
        stack.connector.start()
        job_id = backend.histories[0].job_id
        until(lambda: stack.record(job_id)["state"] == "succeeded", "the batch to end")
        stack.connector.await_ready()
        assert stack.redis.zscore(stack.key("uncollected"), job_id)
        backend.restart()
        history = future.result()
    assert history.succeeded, history
    assert stack.redis.zscore(stack.key("uncollected"), job_id) is None


def shows(backend: FlyteBackend, phase: str) -> bool:
    """Whether Flyte's console shows this phase of the first task."""
    return bool(backend.histories) and backend.histories[0].console.phase == phase


def test_a_create_that_exceeds_its_deadline_is_adopted(stack: Stack, start: TaskStarter) -> None:
    # A tenth of Flyte's deadline, which Redis, suspended for two seconds, exceeds.
    backend = FlyteBackend(start.flyte, resync_s=1, deadline_s=1)
    backend.gives_up_at = time.monotonic() + _MAX_S
    inputs = inputs_of(input_file_id=start.emulator.upload(start.org, requests()))
    template = template_of(batch_task(start.org))
    stack.redis_server.signal(signal.SIGSTOP)
    threading.Timer(2, lambda: stack.redis_server.signal(signal.SIGCONT)).start()
    history = backend.run("batch", template, inputs, start.node, retries=4)
    assert history.succeeded, history
    assert history.attempts > 1
    assert start.batch_ids() == [history.result["id"]]


@pytest.mark.parametrize("attempt", ["the same", "the next"])
def test_redis_is_emptied_before_a_create_is_repeated(
    stack: Stack, start: TaskStarter, attempt: str
) -> None:
    # The first create succeeded, but Flyte did not receive or store the response.
    template = template_of(batch_task(start.org))
    inputs = inputs_of(input_file_id=start.emulator.upload(start.org, requests()))
    start.flyte.create(template, inputs, start.node)
    until(start.batches, "the first batch")
    stack.redis.flushall()
    node = start.node if attempt == "the same" else start.node.again()
    history = FlyteBackend(start.flyte, resync_s=0.5).run("batch", template, inputs, node)
    assert history.succeeded, history
    assert start.batch_ids() == [history.result["id"]]


def test_a_timeout_is_survived_by_the_batch(stack: Stack, start: TaskStarter) -> None:
    start.emulator.configure(in_progress_s=6)
    connector = stack.make_connector("with-delay", env={"BATCHFLOW_DELETE_DELAY_S": "60"})
    stack.extra(connector)
    template = template_of(batch_task(start.org))
    inputs = inputs_of(input_file_id=start.emulator.upload(start.org, requests()))
    with FlyteClient(connector.address) as flyte:
        backend = FlyteBackend(flyte, resync_s=0.5)
        backend.gives_up_at = time.monotonic() + _MAX_S
        history = backend.run("batch", template, inputs, start.node, retries=1, timeouts_s=[3])
    assert history.succeeded, history
    assert (history.timeouts, history.attempts) == (1, 2)
    assert start.batch_ids() == [history.result["id"]]


def test_the_console_shows_each_phase_with_its_first_message(
    stack: Stack, start: TaskStarter
) -> None:
    gateway = "https://batchflow.example.com"
    connector = stack.make_connector("with-links", env={"BATCHFLOW_PUBLIC_URL": gateway})
    stack.extra(connector)
    template = template_of(batch_task(start.org))
    inputs = inputs_of(input_file_id=start.emulator.upload(start.org, requests()))
    start.emulator.configure(validating_s=2, in_progress_s=2, refused_keys=[stack.api_key])
    with FlyteClient(connector.address) as flyte, ThreadPoolExecutor(1) as pool:
        backend = FlyteBackend(flyte, resync_s=0.1)
        backend.gives_up_at = time.monotonic() + _MAX_S
        future = pool.submit(backend.run, "batch", template, inputs, start.node)
        until(lambda: shows(backend, "WAITING_FOR_RESOURCES"), "the wait for a key")
        start.emulator.configure(refused_keys=[])
        stack.redis.delete(*stack.redis.scan_iter(stack.key("backoff:*")))
        console = future.result().console
    assert set(console.names[:2]) == {"INITIALIZING", "WAITING_FOR_RESOURCES"}
    assert console.names[2:] == ["RUNNING", "SUCCEEDED"]
    assert "rejected the API key" in console.message_of("WAITING_FOR_RESOURCES")
    job_page = f"{gateway}/jobs/{backend.histories[0].job_id}"
    assert [shown.links["Batchflow"] for shown in console.phases[:2]] == [job_page, job_page]
