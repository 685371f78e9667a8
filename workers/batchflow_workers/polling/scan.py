"""Which call to OpenAI comes next while many batches are due: a page of the list, or one batch."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from openai.types import Batch

from batchflow.errors import OpenAIRefused
from batchflow.jobs import Job
from batchflow.openai_client.client import PAGE, OpenAIApi
from batchflow_workers.policy import Policy

logger = logging.getLogger(__name__)


class Cursor(NamedTuple):
    """The position of a scan: the last batch of the list that it has passed, and its calls."""

    after: str | None = None
    calls: int = 0


class Scan:
    """A scan of OpenAI's list of batches, newest first, as long as its pages are worth their calls.

    After a page that is not, the newest batch that is still due is retrieved by its id, and the
    list continues after that batch: batches that are due may be far apart in it.
    """

    def __init__(
        self,
        api: OpenAIApi,
        due: dict[str, Job],
        retrieve: Callable[[str, Job], Batch | None],
        start: Cursor,
        policy: Policy,
    ) -> None:
        """``due`` maps ids of batches to their jobs, newest first; the caller removes those that a
        page has shown. ``retrieve`` gets one batch, or None if OpenAI does not know it."""
        self._api = api
        self._due = due
        self._retrieve = retrieve
        self._start = start
        self._policy = policy
        self._pages: Iterator[list[Batch]] | None = api.batch_pages(after=start.after)
        self._reached: Batch | None = None
        self._calls = self._wasted = self._found = 0

    @property
    def cursor(self) -> Cursor:
        """Where another scan can continue."""
        after = self._reached.id if self._reached else self._start.after
        return Cursor(after, self._start.calls + self._calls)

    @property
    def total_calls(self) -> float:
        """An estimate of the calls that it takes to observe all due batches."""
        per_call = max(1.0, self._found / self._calls) if self._found else PAGE
        return self.cursor.calls + len(self._due) / per_call

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the batches that each call returns, until none is due or the time is over."""
        ends_at = time.monotonic() + self._policy.longest_scan_s
        while self._due and (not self._calls or time.monotonic() < ends_at):
            if page := self._next_page():
                yield page
                continue
            batch_id, job = next(iter(self._due.items()))
            if batch := self._next_batch(batch_id, job):
                yield [batch]
            self._due.pop(batch_id, None)

    def _next_page(self) -> list[Batch]:
        """The next page, or nothing if retrieving one batch is better now."""
        policy = self._policy
        may_waste = policy.wasted_pages + self._calls // policy.calls_per_wasted_page
        if self._pages is None or self._wasted >= may_waste:
            return []
        if len(self._due) < policy.worthwhile_batches_per_page and not self._looks_for_seconds():
            return []
        self._calls += 1
        try:
            page = next(self._pages, [])
        except OpenAIRefused as error:
            logger.warning("OpenAI refused to list batches: %s", error)
            page = []
        found = sum(batch.id in self._due for batch in page)
        self._found += found
        if page:
            self._reached = page[-1]
        if found < policy.worthwhile_batches_per_page:
            self._wasted += 1
            self._pages = None
        return page

    def _looks_for_seconds(self) -> bool:
        """Whether the first page is worth its call: it may show the second batch of a job that has
        tried to create one more than once."""
        return not self._calls and any(job.tries > 1 for job in self._due.values())

    def _next_batch(self, batch_id: str, job: Job) -> Batch | None:
        """Retrieve one batch, and continue the list after it."""
        self._calls += 1
        batch = self._retrieve(batch_id, job)
        if batch is None:
            return None
        self._found += 1
        # Without a list, no batch was reached. A batch newer than the last one is not in the list.
        if self._reached and batch.created_at <= self._reached.created_at:
            self._reached = batch
            self._pages = self._api.batch_pages(after=batch.id)
        return batch
