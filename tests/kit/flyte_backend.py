"""Flyte's backend as it treats a connector: it repeats a failed create as the next attempt, gets a
task periodically, and fails a task at its sixth failed get.

See flyteplugins, ``internal/webapi``: failed ``GetTask`` calls are counted per task and never
reset.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.kit.flyte_client import ENDED, ORDER, PATIENCE_S, FlyteClient, Node, Task

#: One more failed `GetTask` than this ends a task as a system failure.
MAX_FAILED_GETS = 5
#: The largest number of attempts; in Flyte, the author of a task chooses it.
MAX_ATTEMPTS = 40
#: The pause between two attempts.
_ATTEMPT_PAUSE_S = 0.5


@dataclass
class History:
    """The outcome of a task and what happened before it."""

    name: str
    #: The last phase; ``LOST`` if Flyte failed it, ``UNFINISHED`` if the time was over.
    phase: str = "UNFINISHED"
    message: str = ""
    result: Any = None
    attempts: int = 0
    failed_creates: list[str] = field(default_factory=list)
    failed_gets: list[str] = field(default_factory=list)
    retryable_failures: list[str] = field(default_factory=list)
    regressions: list[str] = field(default_factory=list)
    #: Each phase with its message, once, and when it was first seen.
    seen: list[tuple[float, str, str]] = field(default_factory=list)
    job_id: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it succeeded."""
        return self.phase == "SUCCEEDED"

    @property
    def killed(self) -> bool:
        """Whether Flyte failed it because of failed gets."""
        return len(self.failed_gets) > MAX_FAILED_GETS


class FlyteBackend:
    """Runs tasks to their end through a connector."""

    def __init__(
        self, client: FlyteClient, *, resync_s: float = 1.0, timeout_s: float = PATIENCE_S
    ) -> None:
        self._client = client
        self._resync_s = resync_s
        self._timeout_s = timeout_s
        #: The monotonic time at which it stops waiting.
        self.gives_up_at = float("inf")

    def run(self, name: str, template: Any, inputs: Any, node: Node) -> History:
        """Run a task to its end, in several attempts if necessary."""
        history = History(name)
        for _ in range(MAX_ATTEMPTS):
            if self._out_of_time:
                break
            history.attempts += 1
            task = self._create(history, template, inputs, node)
            if task is not None and self._follow(history, task):
                break
            node = node.again()
            time.sleep(_ATTEMPT_PAUSE_S)
        return history

    @property
    def _out_of_time(self) -> bool:
        return time.monotonic() > self.gives_up_at

    def _create(self, history: History, template: Any, inputs: Any, node: Node) -> Task | None:
        try:
            return self._client.create(template, inputs, node, timeout_s=self._timeout_s)
        except grpc.RpcError as error:
            history.failed_creates.append(_reason(error))
            return None

    def _follow(self, history: History, task: Task) -> bool:
        """Get the task until its attempt ends; returns False if another attempt follows."""
        last = -1
        while not self._out_of_time:
            time.sleep(self._resync_s)
            try:
                answer = task.get(self._timeout_s)
            except grpc.RpcError as error:
                history.failed_gets.append(_reason(error))
                if history.killed:
                    history.phase = "LOST"
                    return True
                continue
            history.job_id = str(answer.custom_info.get("job_id", history.job_id))
            rank = ORDER.get(answer.phase, len(ORDER))
            if rank < last:
                _, phase, message = history.seen[-1]
                change = f"{phase} ({message}) -> {answer.phase} ({answer.message})"
                history.regressions.append(change)
            last = rank
            if not history.seen or history.seen[-1][1:] != (answer.phase, answer.message):
                history.seen.append((time.time(), answer.phase, answer.message))
            if answer.phase == "RETRYABLE_FAILED":
                history.retryable_failures.append(answer.message)
                return False
            if answer.phase in ENDED:
                history.phase, history.message = answer.phase, answer.message
                history.result = answer.result if history.succeeded else None
                return True
        return True


def _reason(error: grpc.RpcError) -> str:
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    return f"{code() if code else error!r}: {details() if details else ''}"[:300]
