"""Which jobs there are: filtered, newest first, a page at a time.

What the index sorts by (state, kind, and an organization or execution) is found at once, however
many jobs there are. What it doesn't is looked for in the records, so many of them per page; the
next page goes on where that ended.
"""

import re
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from batchflow.errors import InvalidInput, JobNotFound
from batchflow.jobs import Job, is_job_id, is_openai_id
from batchflow.states import JobKind, JobState
from batchflow.store import AsyncJobStore
from batchflow.store.commands import Facet, Listed, find_batch, get, listed

#: Records read for one page, at most.
MOST_READ = 2_000
#: Records read in one round trip.
_AT_ONCE = 250

_CURSOR = re.compile(r"[0-9]{1,12}\.[0-9]{6} (?P<job>\S+)", re.ASCII)


@dataclass(frozen=True)
class Filter:
    """Which jobs are wanted. Empty means all."""

    states: frozenset[JobState] = frozenset()
    kinds: frozenset[JobKind] = frozenset()
    organization: str = ""
    #: Flyte's name of the execution, or any part of ``<project>/<domain>/<name>/<node>`` from the
    #: left that holds the name.
    execution: str = ""
    #: Found anywhere in the job's ids, execution, model, credential, status or message.
    text: str = ""

    @property
    def facet(self) -> Facet:
        """Where in the index they are."""
        return Facet.of(organization=self.organization, execution=self._execution_name)

    @property
    def _execution_name(self) -> str:
        parts = self.execution.strip("/").split("/")
        return parts[2] if len(parts) > 2 else parts[0]

    def takes(self, job: Job) -> bool:
        """Whether a job is wanted."""
        return (
            (not self.states or job.state in self.states)
            and (not self.kinds or job.kind in self.kinds)
            and (not self.organization or job.organization == self.organization)
            and (not self.execution or self._takes_execution(job.execution))
            and (not self.text or self.text.casefold() in _searched(job))
        )

    def _takes_execution(self, execution: str) -> bool:
        wanted = self.execution.strip("/")
        name = "/".join(execution.split("/")[2:3])
        return name == wanted or f"{execution}/".startswith(f"{wanted}/")


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

    A page may hold fewer than ``limit`` jobs and yet have a next one: a search reads MOST_READ
    records and then answers with what it has found.
    """
    place = _place(after)
    found: list[Job] = []
    read = 0
    while True:
        at_once = min(_AT_ONCE, MOST_READ - read)
        places = await _places(store, wanted, place, at_once)
        for job, there in zip(
            await store.run_all([get(each.job_id) for each in places]), places, strict=True
        ):
            place = str(there)
            if job and wanted.takes(job):
                found.append(job)
                if len(found) == limit:
                    last = there == places[-1] and len(places) < at_once
                    return Page(tuple(found), None if last else place)
        read += len(places)
        if len(places) < at_once:
            return Page(tuple(found), None)
        if read >= MOST_READ:
            return Page(tuple(found), place)


async def find_job(store: AsyncJobStore, text: str) -> Job:
    """The job with this id, or whose batch or uploaded file at OpenAI has it; raises InvalidInput
    or JobNotFound."""
    if not is_job_id(text) and not is_openai_id(text):
        raise InvalidInput(
            "That is no id. A job's looks like bf-mctgn4lcdvhclm2p4qc7gkxbae, "
            "a batch's like batch_68f0c1."
        )
    job_id = text if is_job_id(text) else await store.run(find_batch(text))
    job = await store.run(get(job_id)) if job_id else None
    if job is None:
        raise JobNotFound(f"There is no job {text}." if job_id else f"There is no job for {text}.")
    return job


async def _places(store: AsyncJobStore, wanted: Filter, before: str, limit: int) -> list[Listed]:
    ranges = await store.run_all(
        [
            listed(wanted.facet, kind, state, limit=limit, before=before)
            for kind in sorted(wanted.kinds or JobKind)
            for state in sorted(wanted.states or JobState)
        ]
    )
    return list(islice(merge(*ranges, reverse=True), limit))


def _place(cursor: str | None) -> str:
    if not cursor:
        return ""
    match = _CURSOR.fullmatch(cursor)
    if not match or not is_job_id(match["job"]):
        raise InvalidInput("That is no cursor. Give the `next` of the page before, as it was.")
    return cursor


def _searched(job: Job) -> str:
    parts = (
        job.id,
        job.batch_id,
        job.input_file_id,
        job.output_file_id,
        job.error_file_id,
        job.execution,
        job.model,
        job.credential,
        job.openai_status,
        job.message,
    )
    return "\n".join(part for part in parts if part).casefold()
