"""Which jobs there are: filtered, newest first, a page at a time.

What the index sorts by (state, kind, and an organization or execution) is found at once, however
many jobs there are. A text is looked for in the records, so many of them per page; the next page
goes on where that ended.

A job's place is by when it was made, and once it has ended, by when it ended. So while one pages it
moves towards the front or not at all: no job is shown twice, and one that matches all the while and
does not end meanwhile is shown once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice, takewhile
from typing import Final

from batchflow.errors import InvalidInput, JobNotFound
from batchflow.jobs import Job, is_job_id, is_openai_id
from batchflow.states import JobKind, JobState
from batchflow.store import AsyncJobStore, records
from batchflow.store.index import IndexEntry, IndexScope, entries

#: Records in which a text is looked for, for one page.
MOST_READ: Final = 1_000
#: Records read in one round trip, at most.
_AT_ONCE: Final = 250
#: The fields of a record in which a text is looked for.
_SEARCHED: Final = (
    "batch_id",
    "input_file_id",
    "output_file_id",
    "error_file_id",
    "execution",
    "model",
    "credential",
    "openai_status",
    "message",
)

_CURSOR = re.compile(r"[0-9]{1,12}\.[0-9]{6} (?P<job>\S+)", re.ASCII)


@dataclass(frozen=True)
class Filter:
    """Which jobs are wanted. Empty means all; raises InvalidInput for what is no text."""

    states: frozenset[JobState] = frozenset()
    kinds: frozenset[JobKind] = frozenset()
    organization: str = ""
    #: Flyte's name of the execution, or any part of ``<project>/<domain>/<name>/<node>`` from the
    #: left that holds the name.
    execution: str = ""
    #: Found anywhere in the job's ids, execution, model, credential, status or message.
    text: str = ""

    def __post_init__(self) -> None:
        try:
            f"{self.organization}{self.execution}{self.text}".encode()
        except UnicodeEncodeError:
            raise InvalidInput("A filter has half a character in it.") from None

    @property
    def facet(self) -> IndexScope:
        """Where in the index they are."""
        parts = self._execution.split("/")
        name = parts[2] if len(parts) > 2 else parts[0]
        return IndexScope.of(organization=self.organization, execution=name)

    def takes(self, job: Job) -> bool:
        """Whether a job is wanted."""
        return (
            (not self.states or job.state in self.states)
            and (not self.kinds or job.kind in self.kinds)
            and (not self.organization or job.organization == self.organization)
            and (not self._execution or self._takes_execution(job.execution))
            and self.finds(job.id, (getattr(job, name) for name in _SEARCHED))
        )

    def finds(self, job_id: str, searched: Iterable[str | None]) -> bool:
        """Whether the text is in what is searched of a job."""
        text = self.text.casefold()
        return not text or any(text in part.casefold() for part in (job_id, *searched) if part)

    def _takes_execution(self, execution: str) -> bool:
        name = "/".join(execution.split("/")[2:3])
        return name == self._execution or f"{execution}/".startswith(f"{self._execution}/")

    @property
    def _execution(self) -> str:
        return self.execution.strip("/")


@dataclass(frozen=True)
class Page:
    """Some jobs, and where to go on."""

    jobs: tuple[Job, ...]
    #: What ``after`` must be for the next page; None when there is nothing more.
    next: str | None


async def list_jobs(
    store: AsyncJobStore, wanted: Filter, *, limit: int = 50, after: str | None = None
) -> Page:
    """A page of the jobs that are wanted; raises InvalidInput when ``after`` is no cursor.

    A page may hold fewer than ``limit`` jobs and yet have a next one: a search for a text reads
    MOST_READ records and then answers with what it has found.
    """
    places = _Places(store, wanted, _place(after))
    found: dict[str, Job] = {}
    place, read = None, 0
    # One more than asked for shows whether there is a next page. A search that finds little
    # soon reads many.
    at_once = limit + 1
    while part := await places.next(min(at_once, _AT_ONCE)):
        if read >= MOST_READ:
            return Page(tuple(found.values()), str(place))
        jobs = await _read(store, wanted, part)
        for there in part:
            if len(found) == limit:
                return Page(tuple(found.values()), str(place))
            place, job = there, jobs.get(there.job_id)
            if job and wanted.takes(job):
                found[job.id] = job
        read += len(part)
        at_once *= 2
    return Page(tuple(found.values()), None)


async def find_job(store: AsyncJobStore, text: str) -> Job:
    """The job with this id, or whose batch or uploaded file at OpenAI has it; raises InvalidInput
    or JobNotFound."""
    if not is_job_id(text) and not is_openai_id(text):
        raise InvalidInput(
            "That is no id. A job's looks like bf-mctgn4lcdvhclm2p4qc7gkxbae, "
            "a batch's like batch_68f0c1."
        )
    job_id = text if is_job_id(text) else await store.run(records.find_job(text))
    job = await store.run(records.get(job_id)) if job_id else None
    if job is None:
        raise JobNotFound(f"There is no job {text}." if job_id else f"There is no job for {text}.")
    return job


@dataclass
class _Range:
    """The jobs of a kind in a state: which have been read ahead, and whether that is all."""

    kind: JobKind
    state: JobState
    before: str
    ahead: list[IndexEntry] = field(default_factory=list)
    ended: bool = False


class _Places:
    """The places in the index of the jobs that may be wanted, newest first."""

    def __init__(self, store: AsyncJobStore, wanted: Filter, before: str) -> None:
        self._store = store
        self._facet = wanted.facet
        # Queued before running: a job that begins to run meanwhile is in one of them.
        self._ranges = [
            _Range(kind, state, before)
            for kind in sorted(wanted.kinds or JobKind)
            for state in sorted(wanted.states or JobState)
        ]

    async def next(self, number: int) -> list[IndexEntry]:
        """The next ones: ``number`` of them or fewer, none at the end."""
        await self._read_ahead(number)
        # What is older than the last one read of a range may come after one that is not read yet.
        safe = max((part.ahead[-1] for part in self._ranges if not part.ended), default=None)
        in_order = merge(*(part.ahead for part in self._ranges), reverse=True)
        found = list(islice(takewhile(lambda one: safe is None or one >= safe, in_order), number))
        for part in self._ranges:
            part.ahead = [one for one in part.ahead if found and one < found[-1]]
        return found

    async def _read_ahead(self, number: int) -> None:
        empty = [part for part in self._ranges if not part.ahead and not part.ended]
        if not empty:
            return
        answers = await self._store.run_all(
            [
                entries(self._facet, part.kind, part.state, limit=number, before=part.before)
                for part in empty
            ]
        )
        for part, answer in zip(empty, answers, strict=True):
            part.ahead, part.ended = answer, len(answer) < number
            part.before = str(answer[-1]) if answer else part.before


async def _read(
    store: AsyncJobStore, wanted: Filter, places: Iterable[IndexEntry]
) -> dict[str, Job]:
    """The records at some places, without those that a glance rules out."""
    job_ids = [place.job_id for place in places]
    if wanted.text:
        glances = await store.run_all([records.get_fields(job_id, _SEARCHED) for job_id in job_ids])
        job_ids = [
            job_id
            for job_id, values in zip(job_ids, glances, strict=True)
            if wanted.finds(job_id, values)
        ]
    jobs = await store.run_all([records.get(job_id) for job_id in job_ids])
    return {job.id: job for job in jobs if job}


def _place(cursor: str | None) -> str:
    if not cursor:
        return ""
    match = _CURSOR.fullmatch(cursor)
    if not match or not is_job_id(match["job"]):
        raise InvalidInput("That is no cursor. Give the `next` of the page before, as it was.")
    return cursor
