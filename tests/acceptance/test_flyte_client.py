"""A client with Flyte's habits loses no task while OpenAI is down, Redis restarts, the connector
restarts: it ends a task at its sixth failed question, and repeats a create that took too long."""

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
#: A tenth of Flyte's default, as the outages here last a tenth of what they could.
RESYNC_S = 3.0
#: What ends a test that hangs.
_LONGEST_S = 120.0


class Chains:
    """Upload, batch and download, several at once, and what must have come of them."""

    def __init__(self, emulator: Emulator, flyte: FlyteClient, org: str, node: Node) -> None:
        self._emulator = emulator
        self._org = org
        self._node = node
        self.backend = FlyteBackend(flyte, resync_s=RESYNC_S)
        self.backend.gives_up_at = time.monotonic() + _LONGEST_S

    def run(self, breaks: Callable[[], None], after_s: float) -> list[History]:
        """Run them all, and break something meanwhile, once all have begun."""
        breaker = threading.Timer(after_s, breaks)
        with ThreadPoolExecutor(CHAINS) as pool:
            futures = [pool.submit(self._run_one, number) for number in range(CHAINS)]
            breaker.start()
            histories = [history for future in futures for history in future.result()]
        breaker.join()
        return histories

    def _run_one(self, number: int) -> list[History]:
        node = replace(self._node, execution=f"{self._node.execution}-{number}")
        uri = put(node.folder, requests(REQUESTS), f"{number}.jsonl")
        # They are not all at the same step when it breaks.
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
        """All succeeded, each batch and file is there once, and no line is missing."""
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
    """Chains of an organization of their own."""
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


@pytest.mark.parametrize("keeps", [True, False], ids=["with its data", "empty"])
def test_redis_restarts(chains: Chains, stack: Stack, keeps: bool) -> None:
    def restart() -> None:
        if keeps:
            stack.redis.save()
        stack.redis_server.kill()
        time.sleep(4)
        stack.redis_server.start()

    try:
        histories = chains.run(restart, after_s=2)
    finally:
        (stack.folder / "dump.rdb").unlink(missing_ok=True)
    chains.check(histories)
    # A get answers, whatever Redis does; a create has to fail.
    assert [h.failed_gets for h in histories] == [[]] * len(histories)


def test_the_connector_restarts(chains: Chains, stack: Stack) -> None:
    def restart() -> None:
        stack.connector.kill()
        time.sleep(0.5)
        stack.connector.start()

    histories = chains.run(restart, after_s=3)
    chains.check(histories)


def test_a_create_that_outlasts_its_deadline_is_adopted(
    stack: Stack, emulator: Emulator, flyte: FlyteClient, org: str, node: Node
) -> None:
    # A tenth of Flyte's ten seconds, so that a Redis that stands still for two is too slow.
    backend = FlyteBackend(flyte, resync_s=1, timeout_s=1)
    backend.gives_up_at = time.monotonic() + _LONGEST_S
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
    # The first create has been carried out, and its answer has not reached Flyte.
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
    # Flyte itself was restarted before it had noted the answer.
    template = template_of(batch_task(org))
    inputs = inputs_of(input_file_id=emulator.upload(org, requests()))
    flyte.create(template, inputs, node)
    until(lambda: emulator.batches(org), "the first attempt's batch")
    stack.redis.flushall()
    history = FlyteBackend(flyte, resync_s=0.5).run("batch", template, inputs, node)
    assert history.succeeded, history
    assert [batch["id"] for batch in emulator.batches(org)] == [history.result["id"]]
