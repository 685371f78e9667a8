"""A client that behaves like Flyte's backend loses no task while OpenAI, Redis or the connector is
down. It fails a task after six failed gets, and repeats a create that exceeds its deadline."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.kit.emulator import Emulator
from tests.kit.flyte_backend import FlyteBackend, History
from tests.kit.flyte_client import FlyteClient, Node, file_inputs, inputs_of, template_of
from tests.kit.flyte_tasks import (
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
#: A tenth of Flyte's default; the outages are as much shorter than real ones.
RESYNC_S = 3.0
#: The limit on a test, in seconds.
_MAX_S = 120.0


class Chains:
    """Concurrent chains of an upload, a batch and a download, and the check of their results."""

    def __init__(self, emulator: Emulator, flyte: FlyteClient, org: str, node: Node) -> None:
        self._emulator = emulator
        self._org = org
        self._node = node
        self.backend = FlyteBackend(flyte, resync_s=RESYNC_S)
        self.backend.gives_up_at = time.monotonic() + _MAX_S

    def run(self, fault: Callable[[], None], after_s: float) -> list[History]:
        """Run all chains, and cause a fault ``after_s`` seconds after their start."""
        timer = threading.Timer(after_s, fault)
        with ThreadPoolExecutor(CHAINS) as pool:
            futures = [pool.submit(self._run_one, number) for number in range(CHAINS)]
            timer.start()
            histories = [history for future in futures for history in future.result()]
        timer.join()
        return histories

    def _run_one(self, number: int) -> list[History]:
        node = replace(self._node, execution=f"{self._node.execution}-{number}")
        uri = put(node.folder, requests(REQUESTS), f"{number}.jsonl")
        # Staggered, so that the fault meets the chains at different steps.
        time.sleep(number * RESYNC_S / CHAINS)
        run = self.backend.run
        upload = run("upload", template_of(upload_task(self._org)), file_inputs(uri), node)
        if not upload.succeeded:
            return [upload]
        batch = run(
            "batch",
            template_of(batch_task(self._org)),
            inputs_of(input_file_id=upload.result),
            replace(node, node="n1"),
        )
        if not batch.succeeded:
            return [upload, batch]
        download = run(
            "download",
            template_of(download_task(self._org)),
            inputs_of(batch_endpoint_result=batch.result),
            replace(node, node="n2"),
        )
        return [upload, batch, download]

    def check(self, histories: list[History]) -> None:
        """Check that all tasks succeeded, without duplicates at OpenAI and without lost lines."""
        assert [h for h in histories if not h.succeeded] == []
        assert len(histories) == 3 * CHAINS
        assert [h.retryable_failures for h in histories if h.retryable_failures] == []
        assert len(self._emulator.uploads(self._org)) == CHAINS
        assert [b["status"] for b in self._emulator.batches(self._org)] == ["completed"] * CHAINS
        for download in [h for h in histories if h.name == "download"]:
            found = custom_ids(download.result["output_file"]["path"])
            assert found == [f"r-{n}" for n in range(REQUESTS)]
            assert download.result["error_file"] is None


@pytest.fixture
def chains(emulator: Emulator, flyte: FlyteClient, org: str, node: Node) -> Chains:
    """Chains in an organization of their own."""
    emulator.configure(in_progress_s=1.5)
    return Chains(emulator, flyte, org, node)


@pytest.mark.parametrize("answer", [{"status": 503}, {"status": 429}, {"answer": "drop"}])
def test_openai_is_down(chains: Chains, emulator: Emulator, answer: dict[str, object]) -> None:
    histories = chains.run(lambda: emulator.outage(**answer, duration_s=8), after_s=2)
    chains.check(histories)
    assert [h.failed_gets + h.failed_creates for h in histories] == [[]] * len(histories)


def test_openai_hangs(chains: Chains, stack: Stack) -> None:
    def hang() -> None:
        stack.emulator_process.signal(signal.SIGSTOP)
        time.sleep(6)
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
    # A get succeeds without Redis; a create fails.
    assert [h.failed_gets for h in histories] == [[]] * len(histories)


def test_the_connector_restarts(chains: Chains, stack: Stack) -> None:
    def restart() -> None:
        stack.connector.kill()
        time.sleep(0.5)
        stack.connector.start()

    histories = chains.run(restart, after_s=3)
    chains.check(histories)


def test_a_create_that_exceeds_its_deadline_is_adopted(
    stack: Stack, emulator: Emulator, flyte: FlyteClient, org: str, node: Node
) -> None:
    # A tenth of Flyte's deadline, which Redis, suspended for two seconds, exceeds.
    backend = FlyteBackend(flyte, resync_s=1, timeout_s=1)
    backend.gives_up_at = time.monotonic() + _MAX_S
    template = template_of(batch_task(org))
    inputs = inputs_of(input_file_id=emulator.upload(org, requests()))
    stack.redis_server.signal(signal.SIGSTOP)
    threading.Timer(2, lambda: stack.redis_server.signal(signal.SIGCONT)).start()
    history = backend.run("batch", template, inputs, node)
    assert history.succeeded, history
    assert history.attempts > 1
    assert [batch["id"] for batch in emulator.batches(org)] == [history.result["id"]]


def test_redis_is_emptied_between_two_attempts(
    stack: Stack, emulator: Emulator, flyte: FlyteClient, org: str, node: Node
) -> None:
    # The first create succeeded, but Flyte did not receive the response.
    template = template_of(batch_task(org))
    inputs = inputs_of(input_file_id=emulator.upload(org, requests()))
    flyte.create(template, inputs, node)
    until(lambda: emulator.batches(org), "the first attempt's batch")
    stack.redis.flushall()
    history = FlyteBackend(flyte, resync_s=0.5).run("batch", template, inputs, node.again())
    assert history.succeeded, history
    assert [batch["id"] for batch in emulator.batches(org)] == [history.result["id"]]


def test_redis_is_emptied_before_the_same_attempt_is_repeated(
    stack: Stack, emulator: Emulator, flyte: FlyteClient, org: str, node: Node
) -> None:
    # Flyte was restarted before it stored the response.
    template = template_of(batch_task(org))
    inputs = inputs_of(input_file_id=emulator.upload(org, requests()))
    flyte.create(template, inputs, node)
    until(lambda: emulator.batches(org), "the first attempt's batch")
    stack.redis.flushall()
    history = FlyteBackend(flyte, resync_s=0.5).run("batch", template, inputs, node)
    assert history.succeeded, history
    assert [batch["id"] for batch in emulator.batches(org)] == [history.result["id"]]
