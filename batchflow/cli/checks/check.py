"""What a check is given, and what it answers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread
from typing import TypeVar

from batchflow.settings import Settings
from batchflow.store import AsyncJobStore

T = TypeVar("T")


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    #: Nothing to worry about: a suggestion, or what can't be told from here.
    NOTE = "note"
    #: It works, and not as it should.
    WARNING = "warning"
    #: Jobs don't go on, or may be lost from sight.
    PROBLEM = "problem"


@dataclass(frozen=True)
class CheckResult:
    """What was seen, in words without secrets, and what to do about it."""

    level: Level
    what: str
    seen: str
    advice: str = ""


@dataclass(frozen=True)
class CheckContext:
    """Where checks look."""

    settings: Settings
    store: AsyncJobStore


#: Looks at one thing. Errors of ours that it raises are findings, too.
Check = Callable[[CheckContext], Awaitable[Iterable[CheckResult]]]


async def in_thread(work: Callable[[], T]) -> T:
    """What blocking work returns. Its thread is left behind when nobody waits for it any more, and
    doesn't keep the process from ending, as those of ``asyncio.to_thread`` would."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            done.set_exception(error)

    Thread(target=run, name="doctor", daemon=True).start()
    return await asyncio.wrap_future(done)
