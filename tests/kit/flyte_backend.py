"""Flyte's backend as it treats a connector.

It asks about a task right after its creation, and then periodically. It counts the failed
``GetTask`` calls of an attempt and never forgets one: after ``max_system_failures`` it never asks
again, until FlytePropeller restarts. A failed ``CreateTask`` ends the attempt, and so does a
timeout, after a ``DeleteTask``. A next attempt follows only if the task has retries left.

See flyteplugins, ``internal/webapi/{cache,launcher,monitor}.go``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.kit.flyte_client import ENDED, PATIENCE_S, Answer, FlyteClient, Node, Task, went_back
from tests.kit.flyte_console import Console

#: Flyte's default for ``maxSystemFailures``: one more failed ``GetTask`` is the last one.
MAX_SYSTEM_FAILURES = 5
#: The pause between two attempts.
_ATTEMPT_PAUSE_S = 0.5
#: How often a failed ``DeleteTask`` is repeated.
_MAX_DELETES = 12


@dataclass
class History:
    """The outcome of a task and what happened before it."""

    name: str
    #: The last phase; UNFINISHED if the time was over.
    phase: str = "UNFINISHED"
    message: str = ""
    result: Any = None
    #: What the console shows, by attempt.
    consoles: list[Console] = field(default_factory=list)
    #: Whether Flyte has stopped asking. The console then shows the last phase for ever.
    is_forgotten: bool = False
    failed_creates: list[str] = field(default_factory=list)
    failed_gets: list[str] = field(default_factory=list)
    failed_deletes: list[str] = field(default_factory=list)
    retryable_failures: list[str] = field(default_factory=list)
    #: The number of attempts that timed out.
    timeouts: int = 0
    #: Earlier phases that the console shows after RUNNING.
    regressions: list[str] = field(default_factory=list)
    #: All answers that differ from the one before, in all attempts, and when they came.
    seen: list[tuple[float, str, str]] = field(default_factory=list)
    job_id: str = ""

    @property
    def ended(self) -> bool:
        """Whether Flyte has an end of the task, or of its last attempt so far."""
        return self.phase != "UNFINISHED"

    @property
    def succeeded(self) -> bool:
        """Whether it succeeded."""
        return self.phase == "SUCCEEDED"

    @property
    def attempts(self) -> int:
        """The number of attempts."""
        return len(self.consoles)

    @property
    def console(self) -> Console:
        """What the console shows of the last attempt."""
        return self.consoles[-1]

    def fail(self, message: str) -> None:
        """End the attempt, and the task if no other attempt follows."""
        self.phase, self.message = "FAILED", message

    def take(self, answer: Answer) -> None:
        """Record an answer of the connector."""
        known = len(self.console.phases)
        self.console.take(answer)
        self.job_id = str(answer.custom_info.get("job_id", self.job_id))
        if len(self.console.phases) > known and went_back(self.console.names):
            self.regressions.append(f"{self.seen[-1:]} -> {answer.phase} ({answer.message})")
        if not self.seen or self.seen[-1][1:] != (answer.phase, answer.message):
            self.seen.append((time.time(), answer.phase, answer.message))


class FlyteBackend:
    """Runs tasks to their end through a connector."""

    def __init__(
        self,
        client: FlyteClient,
        *,
        resync_s: float = 1.0,
        deadline_s: float = PATIENCE_S,
        max_system_failures: int = MAX_SYSTEM_FAILURES,
    ) -> None:
        self._client = client
        self._resync_s = resync_s
        self._deadline_s = deadline_s
        self._max_system_failures = max_system_failures
        self._restarts = 0
        #: The tasks, also those that have not ended.
        self.histories: list[History] = []
        #: The attempts that connectors have accepted.
        self.tasks: list[Task] = []
        #: The monotonic time at which it stops waiting.
        self.gives_up_at = float("inf")

    def restart(self) -> None:
        """Restart FlytePropeller, which then asks about all tasks again."""
        self._restarts += 1

    def run(
        self,
        name: str,
        template: Any,
        inputs: Any,
        node: Node,
        *,
        retries: int = 0,
        timeouts_s: Sequence[float] = (),
    ) -> History:
        """Run a task to its end.

        ``timeouts_s`` limits the first attempts; the others may take any time.
        """
        history = History(name)
        self.histories.append(history)
        for number in range(1 + retries):
            if number:
                time.sleep(_ATTEMPT_PAUSE_S)
                node = node.again()
            timeout_s = timeouts_s[number] if number < len(timeouts_s) else float("inf")
            ended = self._attempt(history, template, inputs, node, timeout_s)
            if ended or self._out_of_time:
                break
        return history

    @property
    def _out_of_time(self) -> bool:
        return time.monotonic() > self.gives_up_at

    def _attempt(
        self, history: History, template: Any, inputs: Any, node: Node, timeout_s: float
    ) -> bool:
        """Run an attempt; returns False if a retry may follow."""
        history.consoles.append(Console())
        history.phase, history.message = "UNFINISHED", ""
        times_out_at = time.monotonic() + timeout_s
        try:
            task = self._client.create(template, inputs, node, timeout_s=self._deadline_s)
        except grpc.RpcError as error:
            history.failed_creates.append(_reason(error))
            history.fail(_reason(error))
            return False
        self.tasks.append(task)
        return self._follow(history, task, times_out_at)

    def _follow(self, history: History, task: Task, times_out_at: float) -> bool:
        """Ask about a task until its attempt ends; returns False if a retry may follow."""
        failures, restarts = 0, self._restarts
        while not self._out_of_time:
            if time.monotonic() > times_out_at:
                self._delete(history, task)
                history.timeouts += 1
                history.fail("The attempt timed out.")
                return False
            if self._restarts != restarts:
                failures, restarts, history.is_forgotten = 0, self._restarts, False
            if not history.is_forgotten:
                answer = self._get(history, task)
                if answer is None:
                    failures += 1
                    history.is_forgotten = failures > self._max_system_failures
                    if history.is_forgotten and not history.console.phases:
                        history.fail(history.failed_gets[-1])
                        return False
                elif answer.phase in ENDED:
                    return self._end(history, answer)
            time.sleep(self._resync_s)
        return True

    def _get(self, history: History, task: Task) -> Answer | None:
        """Ask once; returns None if that fails."""
        try:
            answer = task.get(self._deadline_s)
        except grpc.RpcError as error:
            history.failed_gets.append(_reason(error))
            return None
        history.take(answer)
        return answer

    def _end(self, history: History, answer: Answer) -> bool:
        """Record the end of an attempt; returns False if a retry may follow."""
        if answer.phase == "RETRYABLE_FAILED":
            history.retryable_failures.append(answer.message)
            history.fail(answer.message)
            return False
        history.phase, history.message = answer.phase, answer.message
        history.result = answer.result if history.succeeded else None
        return True

    def _delete(self, history: History, task: Task) -> None:
        for _ in range(_MAX_DELETES):
            try:
                task.delete(self._deadline_s)
            except grpc.RpcError as error:
                history.failed_deletes.append(_reason(error))
                time.sleep(_ATTEMPT_PAUSE_S)
            else:
                return


def _reason(error: grpc.RpcError) -> str:
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    return f"{code() if code else error!r}: {details() if details else ''}"[:300]
