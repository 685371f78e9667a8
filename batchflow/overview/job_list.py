"""Lists of jobs: filtered, newest first, a page at a time.

The index finds jobs by state, kind, and organization or execution at once, however many jobs there
are. A text is searched in the records, a limited number of them per page; the next page continues
from there.

A live job is sorted by its creation, another one by its end. So while someone pages through a list,
a job moves towards its beginning or not at all: no job is listed twice, and a job that matches all
the time and does not end meanwhile is listed once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice, takewhile
from typing import Final

from batchflow.errors import InvalidInput, JobNotFound
from batchflow.jobs import Job, is_job_id, is_openai_id
from batchflow.overview.job_filter import SEARCHED_FIELDS, JobFilter
from batchflow.states import JobKind, JobState
from batchflow.store import AsyncJobStore, records
from batchflow.store.index import IndexEntry, entries

#: Records in which a text is searched for one page.
MAX_SEARCHED: Final = 1_000
#: Records read in one round trip, at most.
_MAX_AT_ONCE: Final = 250

_CURSOR = re.compile(r"[0-9]{1,12}\.[0-9]{6} (?P<job>\S+)", re.ASCII)


@dataclass(frozen=True)
class ListedJobs:
    """A page of a list of jobs."""

    jobs: tuple[Job, ...]
    #: The cursor of the next page; None if there is none.
    next: str | None


async def list_jobs(
    store: AsyncJobStore, wanted: JobFilter, *, limit: int = 50, after: str | None = None
) -> ListedJobs:
    """A page of the jobs that match; raises InvalidInput if ``after`` is not a valid cursor.

    A page may have fewer than ``limit`` jobs and still have a next one: a search for a text stops
    after MAX_SEARCHED records.
    """
    reader = _IndexReader(store, wanted, _checked_cursor(after))
    found: dict[str, Job] = {}
    last, searched = None, 0
    # One more than the limit shows whether there is a next page. A search that finds little soon
    # reads more at once.
    at_once = limit + 1
    while part := await reader.next(min(at_once, _MAX_AT_ONCE)):
        if searched >= MAX_SEARCHED:
            return ListedJobs(tuple(found.values()), str(last))
        jobs = await _read_jobs(store, wanted, part)
        for entry in part:
            if len(found) == limit:
                return ListedJobs(tuple(found.values()), str(last))
            last, job = entry, jobs.get(entry.job_id)
            if job and wanted.matches(job):
                found[job.id] = job
        searched += len(part)
        at_once *= 2
    return ListedJobs(tuple(found.values()), None)


async def find_job(store: AsyncJobStore, text: str) -> Job:
    """The job with this id, or whose batch or uploaded file at OpenAI has it; raises InvalidInput
    or JobNotFound."""
    if not is_job_id(text) and not is_openai_id(text):
        raise InvalidInput(
            "Not a valid id. A job's id looks like bf-mctgn4lcdvhclm2p4qc7gkxbae, a batch's like "
            "batch_68f0c1."
        )
    job_id = text if is_job_id(text) else await store.run(records.find_job(text))
    job = await store.run(records.get(job_id)) if job_id else None
    if job is None:
        raise JobNotFound(f"There is no job {text}." if job_id else f"There is no job for {text}.")
    return job


@dataclass
class _Range:
    """The part of the index with one kind and state, and the entries that were read ahead."""

    kind: JobKind
    state: JobState
    before: str
    ahead: list[IndexEntry] = field(default_factory=list)
    complete: bool = False


class _IndexReader:
    """Reads the entries of the index that may match, newest first, from several ranges."""

    def __init__(self, store: AsyncJobStore, wanted: JobFilter, before: str) -> None:
        self._store = store
        self._scope = wanted.scope
        # Queued before running: a job that starts to run meanwhile is in one of them.
        self._ranges = [
            _Range(kind, state, before)
            for kind in sorted(wanted.kind or JobKind)
            for state in sorted(wanted.state or JobState)
        ]

    async def next(self, limit: int) -> list[IndexEntry]:
        """The next entries, up to ``limit``; none at the end."""
        await self._read_ahead(limit)
        # Entries older than the last one of an incomplete range may follow others not read yet.
        safe = max((part.ahead[-1] for part in self._ranges if not part.complete), default=None)
        in_order = merge(*(part.ahead for part in self._ranges), reverse=True)
        found = list(islice(takewhile(lambda one: safe is None or one >= safe, in_order), limit))
        for part in self._ranges:
            part.ahead = [entry for entry in part.ahead if found and entry < found[-1]]
        return found

    async def _read_ahead(self, limit: int) -> None:
        empty = [part for part in self._ranges if not part.ahead and not part.complete]
        if not empty:
            return
        replies = await self._store.run_all(
            [
                entries(self._scope, part.kind, part.state, limit=limit, before=part.before)
                for part in empty
            ]
        )
        for part, reply in zip(empty, replies, strict=True):
            part.ahead, part.complete = reply, len(reply) < limit
            part.before = str(reply[-1]) if reply else part.before


async def _read_jobs(
    store: AsyncJobStore, wanted: JobFilter, part: Iterable[IndexEntry]
) -> dict[str, Job]:
    """The records of these entries; with a text, only of those that contain it."""
    job_ids = [entry.job_id for entry in part]
    if wanted.text:
        searched = await store.run_all(
            [records.get_fields(job_id, SEARCHED_FIELDS) for job_id in job_ids]
        )
        job_ids = [
            job_id
            for job_id, values in zip(job_ids, searched, strict=True)
            if wanted.matches_text(job_id, values)
        ]
    jobs = await store.run_all([records.get(job_id) for job_id in job_ids])
    return {job.id: job for job in jobs if job}


def _checked_cursor(cursor: str | None) -> str:
    if not cursor:
        return ""
    match = _CURSOR.fullmatch(cursor)
    if not match or not is_job_id(match["job"]):
        raise InvalidInput("Not a valid cursor. Give the `next` of the previous page unchanged.")
    return cursor
