"""The tests' backend of Flyte treats a connector as the real one does."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
from flyteidl.core.literals_pb2 import LiteralMap

from tests.kit.flyte_backend import FlyteBackend, History
from tests.kit.flyte_client import Answer, FlyteClient, Node, Task, went_back
from tests.kit.processes import until


class Unavailable(grpc.RpcError):
    """A failed call."""


@dataclass
class ScriptedConnector:
    """Answers each call with the next item of a script; the last one is repeated."""

    creates: Sequence[bool] = (True,)
    gets: Sequence[Answer | None] = ()
    calls: list[str] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)

    def create(self, template: object, inputs: object, node: Node, **_: object) -> Task:
        self.calls.append("create")
        self.attempts.append(node.attempt)
        if not self.creates[min(len(self.attempts), len(self.creates)) - 1]:
            raise Unavailable
        return Task(cast(FlyteClient, self), "openai-batch", b"")

    def get(self, meta: bytes, task_type: str, **_: object) -> Answer:
        answer = self.gets[min(self.calls.count("get"), len(self.gets) - 1)]
        self.calls.append("get")
        if answer is None:
            raise Unavailable
        return answer

    def delete(self, meta: bytes, task_type: str, **_: object) -> None:
        self.calls.append("delete")


def answer(phase: str, message: str = "", **links: str) -> Answer:
    pending = {name: uri for name, uri in links.items() if name == "pending"}
    return Answer(phase, message, {"message": message}, links, pending, LiteralMap())


RUNNING, FAILED = answer("RUNNING", "9 of 10"), answer("FAILED", "Why.")


@contextmanager
def started(backend: FlyteBackend) -> Iterator[list[History]]:
    """Run a task in a thread, which ends with the block and adds the history to the list."""
    found: list[History] = []

    def run_one() -> None:
        found.append(backend.run("batch", None, None, Node(Path("/"))))

    thread = threading.Thread(target=run_one)
    thread.start()
    yield found
    thread.join()


def run(connector: ScriptedConnector, *, max_system_failures: int = 5, **task: Any) -> History:
    backend = FlyteBackend(
        cast(FlyteClient, connector), resync_s=0.001, max_system_failures=max_system_failures
    )
    return backend.run("batch", None, None, Node(Path("/")), **task)


def test_a_failed_create_ends_the_attempt() -> None:
    connector = ScriptedConnector(creates=[False])
    history = run(connector)
    assert (history.phase, connector.calls) == ("FAILED", ["create"])
    connector = ScriptedConnector(creates=[False, True], gets=[FAILED])
    assert run(connector, retries=1).message == "Why."
    assert connector.attempts == [0, 1]


def test_failed_gets_are_counted_and_the_sixth_is_the_last() -> None:
    connector = ScriptedConnector(gets=[RUNNING, None, RUNNING, None, None, None, None, None])
    backend = FlyteBackend(cast(FlyteClient, connector), resync_s=0.001)
    with started(backend) as found:
        until(lambda: connector.calls.count("get") == 8, "the sixth failure")
        connector.gets = [FAILED]
        backend.gives_up_at = time.monotonic() + 0.1
    [history] = found
    assert history.is_forgotten
    assert connector.calls.count("get") == 8
    assert (history.phase, history.console.phase) == ("UNFINISHED", "RUNNING")
    assert len(history.failed_gets) == 6


def test_flyte_asks_again_after_a_restart() -> None:
    connector = ScriptedConnector(gets=[RUNNING, None])
    backend = FlyteBackend(cast(FlyteClient, connector), resync_s=0.001, max_system_failures=0)
    with started(backend) as found:
        until(lambda: connector.calls.count("get") == 2, "the failure")
        connector.gets = [FAILED]
        backend.restart()
    [history] = found
    assert not history.is_forgotten
    assert history.message == "Why."


def test_a_task_that_was_never_answered_fails() -> None:
    history = run(ScriptedConnector(gets=[None]))
    assert (history.phase, len(history.failed_gets)) == ("FAILED", 6)
    patient = ScriptedConnector(gets=[None] * 50 + [FAILED])
    assert run(patient, max_system_failures=100).message == "Why."


def test_an_attempt_that_times_out_is_deleted_before_the_next_one() -> None:
    connector = ScriptedConnector(gets=[RUNNING])
    history = run(connector, retries=1, timeouts_s=[0.0, 0.0])
    changes = [call for call in connector.calls if call != "get"]
    assert changes == ["create", "delete", "create", "delete"]
    assert (history.timeouts, history.phase) == (2, "FAILED")


def test_retries_apply_to_retryable_failures_only() -> None:
    connector = ScriptedConnector(gets=[answer("RETRYABLE_FAILED", "Storage."), FAILED])
    history = run(connector, retries=2)
    assert (history.retryable_failures, history.attempts) == (["Storage."], 2)
    assert history.message == "Why."


def test_the_console_takes_each_phase_once() -> None:
    script = [
        answer("QUEUED", "Not shown."),
        answer("INITIALIZING", "Validating.", pending="job", other="batch"),
        answer("WAITING_FOR_RESOURCES", "Quota.", other="batch"),
        answer("INITIALIZING", "Later."),
        answer("RUNNING", "1 of 10", other="batch"),
        answer("RUNNING", "9 of 10"),
        answer("WAITING_FOR_RESOURCES", "Key."),
        FAILED,
    ]
    console = run(ScriptedConnector(gets=script)).console
    assert [(shown.phase, shown.message) for shown in console.phases] == [
        ("INITIALIZING", "Validating."),
        ("WAITING_FOR_RESOURCES", "Quota."),
        ("RUNNING", ""),
        ("FAILED", "Why."),
    ]
    assert [dict(shown.links) for shown in console.phases[:3]] == [
        {"pending": "job"},
        {"other": "batch"},
        {"other": "batch"},
    ]
    assert console.phases[2].custom_info == {"message": "1 of 10"}


def test_a_task_goes_back_if_it_was_running() -> None:
    assert went_back(["INITIALIZING", "RUNNING", "INITIALIZING"])
    assert went_back(["QUEUED"])
    assert not went_back(["WAITING_FOR_RESOURCES", "INITIALIZING", "RUNNING"])
    assert not went_back(["RUNNING", "WAITING_FOR_RESOURCES", "RUNNING", "FAILED"])
