"""Asking the job store from a command, by the questions that the gateway asks, too."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchflow.settings import load_settings
from batchflow.store import AsyncJobStore, connect_async

T = TypeVar("T")


def ask(question: Callable[[AsyncJobStore], Awaitable[T]]) -> T:
    """The answer to a question; raises InvalidSettings, StoreUnavailable, and what it raises."""

    async def answer() -> T:
        store = connect_async(load_settings())
        try:
            return await question(store)
        finally:
            await store.redis.aclose()

    return asyncio.run(answer())
