"""The connector's connections to Redis and to Celery's broker, one set per event loop."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from weakref import WeakKeyDictionary

from batchflow.queue import Sender, make_app
from batchflow.settings import load_settings
from batchflow.store import AsyncJobStore, connect_async

#: With more concurrent creates than this, a create leaves its message to the sweep: sending it
#: costs more than the rest of the create, and Flyte's deadline is ten seconds.
MAX_CREATES_WITH_MESSAGE = 20


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


@dataclass(frozen=True)
class Connections:
    """What create, get and delete use."""

    store: AsyncJobStore
    sender: Sender
    #: Where users reach the gateway, if anywhere.
    public_url: str | None
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
        _OF_LOOP[loop] = Connections(connect_async(settings), sender(), settings.public_url)
    return _OF_LOOP[loop]


@cache
def sender() -> Sender:
    """The sender of messages, shared by all loops."""
    return Sender(make_app(load_settings()))
