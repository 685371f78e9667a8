"""The loads that share a round trip."""

import asyncio
from collections.abc import Sequence

from batchflow.store.loader import DataLoader


class Server:
    """Records the keys of each round trip, and replies when it is released."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.asked, self.released = asyncio.Event(), asyncio.Event()

    async def load_many(self, keys: Sequence[str]) -> list[str]:
        self.sent.append(list(keys))
        self.asked.set()
        await self.released.wait()
        return [key.upper() for key in keys]


async def load(loader: DataLoader[str, str], keys: str) -> dict[str, asyncio.Task[str]]:
    """Begin these loads."""
    tasks = {key: asyncio.create_task(loader.load(key)) for key in keys}
    await asyncio.sleep(0)
    return tasks


def test_a_load_that_is_cancelled_before_it_was_sent_is_not_sent() -> None:
    async def scenario() -> None:
        server = Server()
        loader = DataLoader(server.load_many)
        first = await load(loader, "abc")
        await server.asked.wait()
        later = await load(loader, "xyz")
        # One is under way, and the other waits behind it.
        first["a"].cancel()
        later["x"].cancel()
        await asyncio.sleep(0)
        server.released.set()
        found = await asyncio.gather(first["b"], first["c"], later["y"], later["z"])
        assert list(found) == ["B", "C", "Y", "Z"]
        assert server.sent == [["a", "b", "c"], ["y", "z"]]

    asyncio.run(scenario())


def test_if_all_waiting_loads_are_cancelled_nothing_is_sent() -> None:
    async def scenario() -> None:
        server = Server()
        loader = DataLoader(server.load_many)
        [first] = (await load(loader, "a")).values()
        await server.asked.wait()
        [second] = (await load(loader, "b")).values()
        second.cancel()
        await asyncio.sleep(0)
        server.released.set()
        assert await first == "A"
        assert await loader.load("c") == "C"
        assert server.sent == [["a"], ["c"]]

    asyncio.run(scenario())
