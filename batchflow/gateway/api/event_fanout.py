"""Fans out the stream of transitions to all clients of this process.

One task follows Redis' stream and keeps the newest transitions in memory. A client is only its
position in the stream: it reads what follows from memory, or from Redis if it was disconnected or
is slow. So hundreds of open pages cost Redis one blocked read, nothing is queued for a client, and
a broken connection leaves nothing behind. No library does this for a Redis stream.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile

from batchflow.errors import StoreUnavailable
from batchflow.store import AsyncJobStore
from batchflow.store.events import BEGINNING, Entry, EntryId, entries, newest, oldest, wait

logger = logging.getLogger(__name__)

#: Transitions kept in memory.
MAX_KEPT = 2_000
#: Transitions read at once.
_READ_AT_ONCE = 500
#: How long a read blocks if there is nothing new, in seconds.
_BLOCK_S = 2.0
#: The shortest time between two wake-ups of the clients.
_PAUSE_S = 0.05
#: The time until the next try after a failure.
_RETRY_S = 0.5


@dataclass(frozen=True)
class NextEntries:
    """The entries after a position in the stream."""

    entries: list[Entry]
    #: The next position; None until Redis has answered once.
    position: EntryId | None
    #: Whether entries after the position are lost.
    missed: bool = False


class EventFanout:
    """The newest transitions, for the clients of one event loop."""

    def __init__(self, store: AsyncJobStore) -> None:
        self._store = store
        #: All entries after ``_start`` up to ``end``; both are None until Redis has answered.
        self._kept: deque[Entry] = deque()
        self._start: EntryId | None = None
        self.end: EntryId | None = None
        self._changed = asyncio.Event()
        #: The number of open streams.
        self.clients = 0
        #: Set when the process stops; the streams of all clients then end.
        self.closed = False

    async def after(self, position: EntryId | None, *, for_s: float) -> NextEntries:
        """The entries after a position, or from now on; waits up to ``for_s`` seconds for one."""
        # Read before Redis is asked, so that an entry that arrives meanwhile ends the wait.
        changed = self._changed
        found = await self._entries_after(position)
        if found.position == position and not found.missed:
            with suppress(TimeoutError):
                async with asyncio.timeout(for_s):
                    await changed.wait()
        return found

    async def follow(self) -> None:
        """Follow the stream until the task is cancelled; wait while Redis is unavailable.

        With Python 3.11 a cancellation can get lost in redis-py's use of ``asyncio.wait_for``, so
        ``closed`` ends the loop, too.
        """
        following = False
        while not self.closed:
            try:
                await self._read_on()
                following = True
                while not self.closed:
                    await self._store.run_alone(wait(self.end or BEGINNING, for_s=_BLOCK_S))
                    # Also if nothing arrived: it may be another Redis by now, an empty one.
                    await self._read_on()
                    await asyncio.sleep(_PAUSE_S)
            except StoreUnavailable as error:
                if following:
                    logger.warning("The event streams are interrupted: %s", error)
                following = False
                await asyncio.sleep(_RETRY_S)

    def close(self) -> None:
        """End the streams of all clients."""
        self.closed = True
        self._wake()

    async def _read_on(self) -> None:
        """Read new entries, or notice that Redis was emptied, and wake up the clients."""
        if self.end is None:
            found = NextEntries([], await self._store.run(newest()) or BEGINNING, missed=True)
        else:
            found = await self._read(self.end)
        if found.missed:
            self._kept.clear()
            self._start = found.position
        self._kept.extend(found.entries)
        self.end = found.position
        while len(self._kept) > MAX_KEPT:
            self._start = self._kept.popleft().id
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _entries_after(self, position: EntryId | None) -> NextEntries:
        if self._start is None or self.end is None:
            return NextEntries([], position)
        if position is None:
            return NextEntries([], self.end)
        if self._start <= position <= self.end:
            found = list(takewhile(lambda entry: entry.id > position, reversed(self._kept)))[::-1]
            return NextEntries(found, self.end)
        try:
            return await self._read(position)
        except StoreUnavailable:
            # The position moves on when Redis is back.
            return NextEntries([], position)

    async def _read(self, position: EntryId) -> NextEntries:
        """The entries in Redis after a position; raises StoreUnavailable."""
        found = await self._store.run(entries(position, _READ_AT_ONCE))
        # After the read: entries that Redis deletes from now on were read.
        first, last = await self._store.run_all([oldest(), newest()])
        if position != BEGINNING and not (first and last and first <= position <= last):
            return NextEntries([], last or BEGINNING, missed=True)
        return NextEntries(found, found[-1].id if found else position)
