"""The search for what a job's earlier tries may have created at OpenAI.

All jobs of an account share one search of each list. It goes through the list page by page, gives
every waiting job what is its, and keeps its position in Redis: after an error, or if its worker is
killed, another step continues it.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from openai.types import Batch, FileObject

from batchflow.errors import OpenAIRefused
from batchflow.jobs import Credential, Job, first_id
from batchflow.openai_client.client import OpenAIApi
from batchflow.store import index, records, searches
from batchflow_workers.at_most_once import search_not_before, settled_at_s
from batchflow_workers.backoff import clear_backoff
from batchflow_workers.lease import lease
from batchflow_workers.matching import is_searching
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

T = TypeVar("T", Batch, FileObject)

#: Searches go back to multiples of this time, so that one answers for jobs of about the same age.
_NOT_BEFORE_STEP_S = 600
#: How many waiting jobs are woken in one round trip.
_WOKEN_TOGETHER = 1_000


class Candidates:
    """The jobs that may take a batch or a file: the one that it names, and other generations."""

    def __init__(self, runtime: Runtime) -> None:
        self._store = runtime.store
        self._later: defaultdict[str, list[str]] = defaultdict(list)
        cursor = "0"
        while True:
            cursor, job_ids = self._store.run(index.later_generations(cursor))
            for job_id in job_ids:
                self._later[first_id(job_id)].append(job_id)
            if cursor == "0":
                break

    def of(self, names: Iterable[str]) -> dict[str, list[Job]]:
        """For each job id that is named, the jobs that exist, that one first."""
        ids = {name: self._generations(name) for name in names}
        every = sorted({job_id for generations in ids.values() for job_id in generations})
        found = zip(every, self._store.run_all([records.get(i) for i in every]), strict=True)
        jobs = {job_id: job for job_id, job in found if job}
        return {
            name: [jobs[job_id] for job_id in generations if job_id in jobs]
            for name, generations in ids.items()
        }

    def _generations(self, name: str) -> list[str]:
        first = first_id(name)
        return list(dict.fromkeys([name, first, *self._later.get(first, [])]))


@dataclass(frozen=True)
class Taken(Generic[T]):
    """What the jobs have taken from a page."""

    #: The jobs that need not wait any longer.
    job_ids: Collection[str] = ()
    #: What other jobs take if there is nothing better.
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    #: What names a job that uses another one.
    unused: Sequence[T] = ()


@dataclass(frozen=True)
class Listing(Generic[T]):
    """One of OpenAI's lists."""

    name: str
    source: str
    #: The message of a job that waits for the search.
    message: str
    #: Pages, newest first, back to a time, from the top or after an id.
    pages: Callable[[OpenAIApi, datetime, str | None], Iterator[list[T]]]
    #: Gives the items of a page to the jobs that search for them.
    take: Callable[[Runtime, Credential, list[T], Candidates], Taken[T]]
    #: Disposes of what no job uses.
    dispose: Callable[[Runtime, Credential, Sequence[T]], None]


@dataclass(frozen=True)
class Answer:
    """What a job knows after a search."""

    #: Whether there is nothing at OpenAI but ``fallback_id``. If not, the job has taken something
    #: or waits.
    complete: bool
    #: Something that ended badly, and that the job takes because there is nothing better.
    fallback_id: str = ""


def search(runtime: Runtime, api: OpenAIApi, job: Job, listing: Listing[T]) -> Answer:
    """Search for what the job's tries have created; a job that has to wait for it is postponed."""
    name = f"{listing.name}:{job.spec.credential}"
    not_before_s = search_not_before(job).timestamp()
    question = searches.Question(
        job.id,
        max(settled_at_s(runtime, job), job.created_at.timestamp()),
        not_before_s - not_before_s % _NOT_BEFORE_STEP_S,
    )
    known = runtime.store.run(searches.wait_for(name, question))
    if known and known.answers(question):
        return Answer(True, known.fallback_id)
    with lease(runtime.store, f"search:{name}", runtime.settings.lease_s) as held:
        if held is None:
            policy, waiting = runtime.policy, known.waiting if known else 0
            delay_s = max(policy.busy_search_s, waiting * policy.busy_search_per_job_s)
            _wait(runtime, job, listing, name, delay_s)
            return Answer(False)
        current = runtime.store.run(records.get(job.id))
        if current is None or not is_searching(current):
            # The worker that had the lease has found it.
            runtime.store.run(searches.leave(name, job.id))
            return Answer(False)
        walk = _Walk(runtime, api, job, listing, name)
        walk.go(question)
    if walk.has_taken:
        return Answer(False)
    known = runtime.store.run(searches.wait_for(name, question))
    if known and known.answers(question):
        return Answer(True, known.fallback_id)
    _wait(runtime, job, listing, name, 0)
    return Answer(False)


def _wait(runtime: Runtime, job: Job, listing: Listing[T], name: str, delay_s: float) -> None:
    """Postpone a job, unless another worker has found what it searches for."""
    waits = records.update(
        job.id,
        source=listing.source,
        of_batch=records.NO_BATCH,
        due_in_s=delay_s,
        fields={"message": listing.message, "waiting_for": None},
    )
    if runtime.store.run(waits).outcome is not records.UpdateOutcome.APPLIED:
        runtime.store.run(searches.leave(name, job.id))


class _Walk(Generic[T]):
    """The part of a search that one step does."""

    def __init__(
        self, runtime: Runtime, api: OpenAIApi, job: Job, listing: Listing[T], name: str
    ) -> None:
        self._runtime = runtime
        self._api = api
        self._job = job
        self._listing: Listing[T] = listing
        self._name = name
        self._credential = job.spec.credential
        self._unused: list[T] = []
        #: Whether the job has taken something.
        self.has_taken = False

    def go(self, question: searches.Question) -> None:
        """Walk until the list ends, no job waits any longer, or the walk takes too long."""
        store = self._runtime.store
        try:
            known = store.run(searches.begin(self._name, question))
            try:
                self._continue(known)
            except OpenAIRefused as error:
                if not known.after:
                    raise
                # The last one that it had passed may have been deleted.
                logger.warning("The search of %s starts again: %s", self._name, error)
                store.run(searches.forget(self._name))
                self._continue(store.run(searches.begin(self._name, question)))
        finally:
            # Not earlier: the list continues after an object that exists.
            self._listing.dispose(self._runtime, self._credential, self._unused)

    def _continue(self, known: searches.Search) -> None:
        runtime = self._runtime
        if known.done:
            # Another worker has just ended it.
            return
        # Jobs that were created after the search began ask for another one.
        candidates = Candidates(runtime)
        ends_at = time.monotonic() + runtime.policy.longest_search_s
        not_before = datetime.fromtimestamp(known.not_before_s, UTC)
        for page in self._listing.pages(self._api, not_before, known.after or None):
            # Errors of other pages in between do not add up.
            clear_backoff(runtime, self._credential)
            taken = self._listing.take(runtime, self._credential, page, candidates)
            self._unused += taken.unused
            self.has_taken |= self._job.id in taken.job_ids
            after = page[-1].id if page else known.after
            waiting = runtime.store.run(
                searches.advance(
                    self._name, known, after, served=taken.job_ids, fallbacks=taken.fallbacks
                )
            )
            known = replace(known, after=after)
            if waiting <= 0 or (page and time.monotonic() > ends_at):
                return
        if runtime.store.run(searches.advance(self._name, known, known.after, done=True)) > 0:
            self._wake()

    def _wake(self) -> None:
        """Make the jobs that wait for the search due, because it has ended."""
        store, source = self._runtime.store, self._listing.source
        waiting = [i for i in store.run(searches.waiting(self._name)) if i != self._job.id]
        for first in range(0, len(waiting), _WOKEN_TOGETHER):
            part = waiting[first : first + _WOKEN_TOGETHER]
            store.run_all([records.update(i, source=source, due_in_s=0) for i in part])
