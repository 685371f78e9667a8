"""The connector's own connections: Redis and Celery's broker."""

import asyncio
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

from batchflow.queue import Sender, make_app
from batchflow.settings import load_settings
from batchflow.store import AsyncJobStore, connect_async
from batchflow_connector.load_shedding import Rush


@dataclass(frozen=True)
class Backend:
    """What create, get and delete need."""

    store: AsyncJobStore
    sender: Sender
    rush: Rush
    #: Where people reach the gateway, if anywhere.
    public_url: str | None


_BACKENDS: WeakKeyDictionary[asyncio.AbstractEventLoop, Backend] = WeakKeyDictionary()


def backend() -> Backend:
    """The connections of the running loop: a local execution that is interrupted calls ``delete``
    in another loop than ``create``, and an async client belongs to one."""
    loop = asyncio.get_running_loop()
    if loop not in _BACKENDS:
        settings = load_settings()
        _BACKENDS[loop] = Backend(connect_async(settings), _sender(), Rush(), settings.public_url)
    return _BACKENDS[loop]


@cache
def _sender() -> Sender:
    return Sender(make_app(load_settings()))
