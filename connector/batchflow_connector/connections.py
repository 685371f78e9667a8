"""The connector's connections to Redis and to Celery's broker, one set per event loop."""

import asyncio
from dataclasses import dataclass, field
from functools import cache
from weakref import WeakKeyDictionary

from batchflow.queue import Sender, make_app
from batchflow.settings import load_settings
from batchflow.store import AsyncJobStore, connect_async
from batchflow_connector.load_shedding import CreateLoad


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
