"""A connection to the job store for the time of one command."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchflow.settings import load_settings
from batchflow.store import AsyncJobStore, connect_async

T = TypeVar("T")


def with_store(operation: Callable[[AsyncJobStore], Awaitable[T]]) -> T:
    """Run an operation on the job store and return its result.

    Raises InvalidSettings, StoreUnavailable, and whatever the operation raises.
    """

    async def session() -> T:
        store = connect_async(load_settings())
        try:
            return await operation(store)
        finally:
            await store.redis.aclose()

    return asyncio.run(session())
