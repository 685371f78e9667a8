"""Which call to OpenAI comes next while many batches are due: a page of the list, or one batch."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from openai.types import Batch

from batchflow.errors import OpenAIRefused
from batchflow.jobs import Job
from batchflow.openai_client.api import PAGE, OpenAIApi

logger = logging.getLogger(__name__)

#: A page of the list pays if it answers for at least so many due batches.
_PAYS = 2
#: So many pages that don't pay are asked for, and one more for so many calls: whatever is in the
#: list, and whatever a server makes of our questions, that is all that pages can cost in vain.
_VAIN_PAGES = 2
_CALLS_PER_VAIN_PAGE = 8
#: A walk that takes longer is broken off, in seconds. Sweeps and webhooks wait for its worker.
_LONGEST_S = 5.0


class Mark(NamedTuple):
    """How far a walk has come: behind which batch of the list, and after how many calls."""

    after: str | None = None
    calls: int = 0


class Scan:
    """Goes through OpenAI's list, newest first, as long as pages pay.

    Where one doesn't, the newest batch that is still due is asked for by its id, and the list is
    gone on with behind it: what is due may be anywhere among others that are nobody's business.
    """

    def __init__(
        self,
        api: OpenAIApi,
        due: dict[str, Job],
        retrieve: Callable[[str, Job], Batch | None],
        begin: Mark,
    ) -> None:
        """``due`` has what is to be found by batch id, newest first, and whoever walks takes out
        what a page has shown. ``retrieve`` asks for one batch; None if OpenAI doesn't know it.
        ``begin`` is where another walk was broken off."""
        self._api = api
        self._due = due
        self._retrieve = retrieve
        self._begin = begin
        self._pages: Iterator[list[Batch]] | None = api.batch_pages(after=begin.after)
        self._reached: Batch | None = None
        self._calls = self._vain = self._answered = 0

    @property
    def mark(self) -> Mark:
        """Where another walk can go on."""
        after = self._reached.id if self._reached else self._begin.after
        return Mark(after, self._begin.calls + self._calls)

    @property
    def calls(self) -> float:
        """How many calls it takes in all, as far as that can be told by now."""
        per_call = max(1.0, self._answered / self._calls) if self._answered else PAGE
        return self.mark.calls + len(self._due) / per_call

    def __iter__(self) -> Iterator[list[Batch]]:
        """What each call shows, until nothing is left, or the walk is broken off."""
        ends_at = time.monotonic() + _LONGEST_S
        while self._due and (not self._calls or time.monotonic() < ends_at):
            if page := self._next_page():
                yield page
                continue
            batch_id, job = next(iter(self._due.items()))
            if batch := self._next_batch(batch_id, job):
                yield [batch]
            self._due.pop(batch_id, None)

    def _next_page(self) -> list[Batch]:
        """The next page, or nothing if asking for one batch is better now."""
        allowed = self._vain < _VAIN_PAGES + self._calls // _CALLS_PER_VAIN_PAGE
        if self._pages is None or not allowed or len(self._due) < _PAYS:
            return []
        self._calls += 1
        try:
            page = next(self._pages, [])
        except OpenAIRefused as error:
            logger.warning("OpenAI refused a list of batches: %s", error)
            page = []
        answered = sum(batch.id in self._due for batch in page)
        self._answered += answered
        if page:
            self._reached = page[-1]
        if answered < _PAYS:
            self._vain += 1
            self._pages = None
        return page

    def _next_batch(self, batch_id: str, job: Job) -> Batch | None:
        """One batch by its id, and the list goes on behind it."""
        self._calls += 1
        batch = self._retrieve(batch_id, job)
        if batch is None:
            return None
        self._answered += 1
        # Nothing was reached where there is no list; what is newer was passed and is not in it.
        if self._reached and batch.created_at <= self._reached.created_at:
            self._reached = batch
            self._pages = self._api.batch_pages(after=batch.id)
        return batch
