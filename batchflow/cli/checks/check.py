"""What a check receives and returns."""

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
    """How serious a result is."""

    OK = "ok"
    #: A suggestion, or something that can't be checked from here.
    NOTE = "note"
    #: Jobs are processed, but not as well as they should be.
    WARNING = "warning"
    #: Jobs are not processed, or may be lost.
    PROBLEM = "problem"


@dataclass(frozen=True)
class CheckResult:
    """What a check found, without secrets, and what to do about it."""

    level: Level
    what: str
    seen: str
    advice: str = ""


@dataclass(frozen=True)
class CheckContext:
    """The settings of this machine, and the job store that they name."""

    settings: Settings
    store: AsyncJobStore


#: A Batchflow error that it raises is reported as a problem.
Check = Callable[[CheckContext], Awaitable[Iterable[CheckResult]]]


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread.

    Unlike the threads of ``asyncio.to_thread``, it does not keep the process alive after a timeout.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            done.set_exception(error)

    Thread(target=run, name="doctor", daemon=True).start()
    return await asyncio.wrap_future(done)
