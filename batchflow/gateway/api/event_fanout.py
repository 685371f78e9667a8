"""Transitions as they happen, for every stream that this process serves.

One task follows Redis' stream for all of them and keeps what came last. A client is no more than
its place in the stream: it takes what came after that from memory, or from Redis when it has been
away or is slow. So hundreds of open pages cost Redis one blocked read, nothing is queued for
anybody, and a connection that breaks leaves nothing behind.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile

from batchflow.errors import StoreUnavailable
from batchflow.store import AsyncJobStore
from batchflow.store.events import BEGINNING, Entry, EntryId, entries, newest, oldest, wait

logger = logging.getLogger(__name__)

#: Transitions kept in memory.
KEPT = 2_000
#: Transitions read at once.
_AT_ONCE = 500
#: How long Redis holds back its answer when there is nothing new, in seconds.
_WAIT_S = 2.0
#: Clients are woken at most this often.
_PAUSE_S = 0.05
#: How long after a failure Redis is asked again.
_RETRY_S = 0.5


@dataclass(frozen=True)
class NextEntries:
    """What comes after a place in the stream."""

    entries: list[Entry]
    #: Where to go on; None as long as Redis has never answered.
    place: EntryId | None
    #: What came after the place is not all known any more.
    missed: bool = False


class EventFanout:
    """The newest transitions. It belongs to one event loop."""

    def __init__(self, store: AsyncJobStore) -> None:
        self._store = store
        #: All entries after ``_begin`` up to ``_end``; both are None until Redis has answered.
        self._kept: deque[Entry] = deque()
        self._begin: EntryId | None = None
        self._end: EntryId | None = None
        self._moved = asyncio.Event()
        self.clients = 0
        #: Set when the process ends; whoever serves a client then ends, too.
        self.closed = False

    @property
    def end(self) -> EntryId | None:
        """The place after which comes what has not happened yet."""
        return self._end

    @contextmanager
    def client(self) -> Iterator[None]:
        """Somebody's time with the fanout."""
        self.clients += 1
        try:
            yield
        finally:
            self.clients -= 1

    async def after(self, place: EntryId | None, *, for_s: float) -> NextEntries:
        """The next entries after a place, or after now; waits up to ``for_s`` seconds for one."""
        # Looked up first: what comes while Redis is asked must not be slept through.
        moved = self._moved
        found = await self._found(place)
        if found.place == place and not found.missed:
            with suppress(TimeoutError):
                async with asyncio.timeout(for_s):
                    await moved.wait()
        return found

    async def follow(self) -> None:
        """Follow the stream until this is cancelled. While Redis is away, it waits.

        With Python 3.11 a cancellation can get lost in ``asyncio.wait_for``, by which the client
        sends, so this looks whether it is closed, too.
        """
        following = False
        while not self.closed:
            try:
                await self._go_on()
                following = True
                while not self.closed:
                    await self._store.run_alone(wait(self._end or BEGINNING, for_s=_WAIT_S))
                    # When nothing came, too: it may be another Redis by now, and empty.
                    await self._go_on()
                    await asyncio.sleep(_PAUSE_S)
            except StoreUnavailable as error:
                if following:
                    logger.warning("The stream of transitions waits: %s", error)
                following = False
                await asyncio.sleep(_RETRY_S)

    def close(self) -> None:
        """Let every client know that the process ends."""
        self.closed = True
        self._wake()

    async def _go_on(self) -> None:
        """Read what is new, or see that Redis was emptied, and wake everybody."""
        if self._end is None:
            found = NextEntries([], await self._store.run(newest()) or BEGINNING, missed=True)
        else:
            found = await self._read(self._end)
        if found.missed:
            self._kept.clear()
            self._begin = found.place
        self._kept.extend(found.entries)
        self._end = found.place
        while len(self._kept) > KEPT:
            self._begin = self._kept.popleft().id
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _found(self, place: EntryId | None) -> NextEntries:
        if self._begin is None or self._end is None:
            return NextEntries([], place)
        if place is None:
            return NextEntries([], self._end)
        if self._begin <= place <= self._end:
            found = list(takewhile(lambda entry: entry.id > place, reversed(self._kept)))[::-1]
            return NextEntries(found, self._end)
        try:
            return await self._read(place)
        except StoreUnavailable:
            # The fanout moves when Redis is back.
            return NextEntries([], place)

    async def _read(self, place: EntryId) -> NextEntries:
        """The next entries that Redis has; raises StoreUnavailable."""
        found = await self._store.run(entries(place, _AT_ONCE))
        # Only now: what is forgotten from here on has been read.
        first, last = await self._store.run_all([oldest(), newest()])
        if place != BEGINNING and not (first and last and first <= place <= last):
            return NextEntries([], last or BEGINNING, missed=True)
        return NextEntries(found, found[-1].id if found else place)
