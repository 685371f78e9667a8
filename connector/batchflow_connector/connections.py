"""The connector's connections to Redis and to Celery's broker, one set per event loop."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from weakref import WeakKeyDictionary

from batchflow.queue import QueueUnavailable, Sender, Step, make_app
from batchflow.settings import load_settings
from batchflow.store import AsyncJobStore, connect_async

logger = logging.getLogger(__name__)

#: With more concurrent creates than this, a create leaves its message to the sweep: sending it
#: costs more than the rest of the create, and Flyte's deadline is ten seconds.
MAX_CREATES_WITH_MESSAGE = 20

#: After a message that the broker did not accept in time, the sweep sends the next ones for this
#: long, because each would occupy a thread.
_PAUSE_S = 5.0


class CreateLoad:
    """Counts the concurrent creates of one event loop."""

    def __init__(self) -> None:
        self._concurrent = 0

    @contextmanager
    def track(self) -> Iterator[bool]:
        """Count a create while the block runs; yields whether to shed load."""
        self._concurrent += 1
        try:
            yield self._concurrent > MAX_CREATES_WITH_MESSAGE
        finally:
            self._concurrent -= 1


class AsyncSender:
    """Enqueues steps from event loops. What the broker does not accept is left to the sweep."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        # Not the loop's own threads, which resolve the name of Redis' host.
        self._threads = ThreadPoolExecutor(thread_name_prefix="batchflow-send")
        self._paused_until_s = 0.0

    @property
    def paused(self) -> bool:
        """Whether messages are left to the sweep."""
        return time.monotonic() < self._paused_until_s

    async def send(self, step: Step, job_id: str, deadline_s: float) -> None:
        """Enqueue a step before a time of the loop's clock."""
        if self.paused:
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline_s):
                await loop.run_in_executor(self._threads, self._sender.send, step, job_id)
        except (QueueUnavailable, TimeoutError) as error:
            self._paused_until_s = time.monotonic() + _PAUSE_S
            logger.warning("%s: left to the sweep: %s", job_id, error or "the broker hangs")


@dataclass(frozen=True)
class Connections:
    """What create, get and delete use."""

    store: AsyncJobStore
    sender: AsyncSender
    #: Where users reach the gateway, if anywhere.
    public_url: str | None
    delete_delay_s: float
    create_load: CreateLoad = field(default_factory=CreateLoad)


_OF_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, Connections] = WeakKeyDictionary()


def connections() -> Connections:
    """The connections of the running event loop, made on first use.

    An async client belongs to one loop, and a local execution that is interrupted calls ``delete``
    in another loop than ``create``.
    """
    loop = asyncio.get_running_loop()
    if loop not in _OF_LOOP:
        settings = load_settings()
        _OF_LOOP[loop] = Connections(
            connect_async(settings), sender(), settings.public_url, settings.delete_delay_s
        )
    return _OF_LOOP[loop]


@cache
def sender() -> AsyncSender:
    """The sender of messages, shared by all loops."""
    return AsyncSender(Sender(make_app(load_settings())))
