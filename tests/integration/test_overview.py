"""Lists, single jobs, history, cancellation and transitions, over fakeredis and Redis."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

import fakeredis
import pytest
from pydantic import ValidationError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from batchflow.errors import InvalidInput, JobNotFound
from batchflow.jobs import Job, JobRequest
from batchflow.overview import job_list
from batchflow.overview.cancellation import Cancellation, cancel_job
from batchflow.overview.job_filter import JobFilter
from batchflow.overview.job_list import ListedJobs, find_job, list_jobs
from batchflow.overview.job_view import JobDetails, JobView, timeline
from batchflow.queue import QueueUnavailable, Step
from batchflow.states import LIVE, JobKind, JobState, Phase, Stage
from batchflow.store import AsyncJobStore, JobStore, events, keys, records
from batchflow.store.command import Command
from batchflow.store.index import recent
from batchflow.store.records import CancelResult
from tests.kit.job_requests import a_job_request
from tests.kit.population import populate

T = TypeVar("T")

#: The number of jobs in the large store.
POPULATION = 300
SERVERS = ("fakeredis", "redis")


@dataclass
class Fleet:
    """A store with a blocking client for writes and an asyncio one for reads."""

    store: JobStore
    reader: AsyncJobStore
    runner: asyncio.Runner
    #: The messages for workers, and whether the broker is unavailable.
    sent: list[tuple[Step, str]] = field(default_factory=list)
    broker_is_unavailable: bool = False

    def ask(self, question: Callable[[AsyncJobStore], Awaitable[T]]) -> T:
        async def answer() -> T:
            return await question(self.reader)

        return self.runner.run(answer())

    def page(self, wanted: JobFilter | None = None, **paging: Any) -> ListedJobs:
        return self.ask(lambda reader: list_jobs(reader, wanted or JobFilter(), **paging))

    def pages(self, wanted: JobFilter, limit: int) -> list[list[Job]]:
        found, after = [], None
        while True:
            page = self.page(wanted, limit=limit, after=after)
            found.append(list(page.jobs))
            if page.next is None:
                return found
            assert page.next != after, "the next page would be the same one"
            after = page.next

    def find(self, text: str) -> Job:
        return self.ask(lambda reader: find_job(reader, text))

    def everything(self) -> list[Job]:
        """All records, newest first, read without the index."""
        ids = self.store.run(recent(1_000_000))
        jobs = [job for job in self.store.run_all([records.get(id_) for id_ in ids]) if job]
        return sorted(jobs, key=sort_key, reverse=True)

    def cancel(self, text: str) -> Cancellation:
        async def send(step: Step, job_id: str) -> None:
            if self.broker_is_unavailable:
                raise QueueUnavailable("unavailable")
            self.sent.append((step, job_id))

        return self.ask(
            lambda reader: cancel_job(reader, send, text, message="Not needed.", source="test")
        )

    def made(self, kind: JobKind = JobKind.BATCH, **job_request: Any) -> JobRequest:
        made = a_job_request(kind, **job_request)
        assert self.store.run(records.create(made, due_in_s=1_000)).new
        return made

    def change(self, job_id: str, **change: Any) -> None:
        changed = self.store.run(records.update(job_id, **{"source": "test"} | change))
        assert changed.outcome is records.UpdateOutcome.APPLIED

    def job(self, job_id: str) -> Job:
        job = self.store.run(records.get(job_id))
        assert job is not None
        return job


def sort_key(job: Job) -> tuple[Any, str]:
    """Lists are sorted by the creation of live jobs and the end of others."""
    return (job.created_at if job.state in LIVE else job.updated_at), job.id


@contextmanager
def fleet_on(server: str, redis_url: Callable[[], str]) -> Iterator[Fleet]:
    prefix = f"test-{uuid4()}"
    if server == "fakeredis":
        shared = fakeredis.FakeServer()
        redis: Redis = fakeredis.FakeRedis(server=shared, decode_responses=True)
        reading: AsyncRedis = fakeredis.FakeAsyncRedis(server=shared, decode_responses=True)
    else:
        redis = Redis.from_url(redis_url(), decode_responses=True)
        reading = AsyncRedis.from_url(redis_url(), decode_responses=True)
    with closing(redis), asyncio.Runner() as runner:
        yield Fleet(JobStore(redis, prefix), AsyncJobStore(reading, prefix), runner)
        runner.run(reading.aclose())


@pytest.fixture(params=SERVERS)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """An empty fleet."""
    with fleet_on(request.param, lambda: request.getfixturevalue("redis_url")) as fleet:
        yield fleet


@pytest.fixture(scope="module", params=SERVERS)
def crowd(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet with many jobs, which no test changes."""
    with fleet_on(request.param, lambda: request.getfixturevalue("redis_url")) as fleet:
        populate(fleet.store, range(POPULATION))
        yield fleet


# Filters

STATES = [
    frozenset[JobState](),
    *(frozenset({state}) for state in JobState),
    LIVE,
    frozenset({JobState.FAILED, JobState.RETRYABLE}),
]
KINDS = [frozenset[JobKind](), *(frozenset({kind}) for kind in JobKind)]
ORGANIZATIONS = ["", "org-alpha", "org-beta", "org-beta-2", "org-nobody", "org-beta batch"]
EXECUTIONS = [
    "",
    "run-1",
    "run-11",
    "project-1/dev/run-11",
    "/project-1/dev/run-11/",
    "project-0/dev/run-11",
    "project-1/dev/run-11/n1-batch",
    "project-1/dev/run-11/n1",
    "project-1",
    "n1-batch",
    "no-such",
]
TEXTS = ["", "waiting", "GRÖßE", "batch_", "gpt-4.1", "in_progress", "file-in1", "no such text"]


def is_wanted(job: Job, wanted: JobFilter) -> bool:
    """The meaning of a filter, defined a second time without the index."""
    if wanted.state and job.state not in wanted.state:
        return False
    if wanted.kind and job.kind not in wanted.kind:
        return False
    if wanted.organization and job.organization != wanted.organization:
        return False
    if name := wanted.execution.strip("/"):
        parts = job.execution.split("/")
        if parts[2:3] != [name] and (
            "/" not in name or parts[: name.count("/") + 1] != name.split("/") or len(parts) < 3
        ):
            return False
    shown = JobView.of(job).model_dump()
    searched = [shown[name] for name in shown if name.endswith("_id") or name == "id"]
    searched += [job.execution, job.model, job.credential, job.openai_status, job.message]
    return any(wanted.text.casefold() in str(part or "").casefold() for part in searched)


def a_filter(**values: Any) -> JobFilter:
    assert values.keys() <= JobFilter.model_fields.keys()
    return JobFilter(**values)


def some_filters() -> list[JobFilter]:
    """Each value of each filter alone, and random combinations."""
    choices: dict[str, list[Any]] = {
        "state": STATES,
        "kind": KINDS,
        "organization": ORGANIZATIONS,
        "execution": EXECUTIONS,
        "text": TEXTS,
    }
    alone = [a_filter(**{name: value}) for name, values in choices.items() for value in values]
    random = Random(4)
    combined = [
        a_filter(
            **{
                name: random.choice([values[0], random.choice(values)])
                for name, values in choices.items()
            }
        )
        for _ in range(200)
    ]
    return alone + combined


def test_every_filter_finds_exactly_the_matching_jobs(crowd: Fleet) -> None:
    everything = crowd.everything()
    assert len(everything) == POPULATION
    hits = 0
    for wanted in some_filters():
        expected = [job for job in everything if is_wanted(job, wanted)]
        page = crowd.page(wanted, limit=POPULATION)
        assert list(page.jobs) == expected, wanted
        assert page.next is None
        hits += bool(expected)
    assert hits > 100, "most of these filters find nothing"


@pytest.mark.parametrize("limit", [1, 7, 50, 299, 300, 301])
def test_pages_have_no_gap_between_them(crowd: Fleet, limit: int) -> None:
    everything = crowd.everything()
    pages = crowd.pages(JobFilter(), limit)
    assert [job for page in pages for job in page] == everything
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert pages[-1]


@pytest.mark.parametrize(
    "wanted",
    [
        JobFilter(state=LIVE),
        JobFilter(kind=frozenset({JobKind.BATCH}), organization="org-beta"),
        JobFilter(text="waiting"),
        JobFilter(text="WAITING", state=frozenset({JobState.FAILED}), organization="org-alpha"),
    ],
)
def test_pages_of_a_filter_have_the_jobs_of_one_large_page(crowd: Fleet, wanted: JobFilter) -> None:
    expected = list(crowd.page(wanted, limit=POPULATION).jobs)
    assert expected
    for limit in (1, 3, 10):
        assert [job for page in crowd.pages(wanted, limit) for job in page] == expected


def test_a_search_keeps_the_order_when_most_jobs_are_in_one_state(fleet: Fleet) -> None:
    job_requests = [fleet.made() for _ in range(90)]
    for number, job_request in enumerate(job_requests):
        state = JobState.RUNNING if number % 5 else JobState.QUEUED
        message = "rare" if number % 11 == 0 else "often"
        fleet.change(job_request.job_id, to=state, fields={"message": message})
    expected = [
        job_request.job_id for number, job_request in enumerate(job_requests) if number % 11 == 0
    ][::-1]
    for limit in (1, 2, 5):
        found = [job.id for page in fleet.pages(JobFilter(text="rare"), limit) for job in page]
        assert found == expected


def test_a_search_continues_on_the_next_page(crowd: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_list, "MAX_SEARCHED", 40)
    wanted = JobFilter(text="größe")
    expected = [job for job in crowd.everything() if is_wanted(job, wanted)]
    pages = crowd.pages(wanted, 50)
    assert [job for page in pages for job in page] == expected
    assert len(pages) >= 3
    nothing = crowd.pages(JobFilter(text="no such text"), 50)
    assert not any(nothing)
    assert len(nothing) >= 3


def test_an_organization_is_matched_as_a_whole(crowd: Fleet) -> None:
    found = crowd.page(JobFilter(organization="org-beta"), limit=POPULATION).jobs
    assert {job.organization for job in found} == {"org-beta"}


def test_a_list_may_be_empty(fleet: Fleet) -> None:
    assert fleet.page() == ListedJobs((), None)


@pytest.mark.parametrize("wanted", [JobFilter(), JobFilter(text="Invalid")])
def test_an_invalid_record_does_not_stop_the_list(fleet: Fleet, wanted: JobFilter) -> None:
    bad, good = fleet.made(), fleet.made()
    for job_request in (bad, good):
        fleet.change(job_request.job_id, fields={"message": "invalid"})
    fleet.store.run(records.annotate(bad.job_id, {"total": "many"}))
    assert [job.id for job in fleet.page(wanted).jobs] == [good.job_id]


# Cursors and invalid filters


@pytest.mark.parametrize(
    "cursor",
    [
        *("x", "0", "~", " ", "\x00", "1" * 10_000, "\ud800", "1767225600.000000"),
        *("1767225600.000000 ", "1767225600.000000 bf-1", "1767225600.0 bf-" + "a" * 26),
        *("-1.000000 bf-" + "a" * 26, "1767225600.000000 bf-" + "a" * 26 + "\n"),
        *("1767225600.000000  bf-" + "a" * 26, "١٧٦٧٢٢٥٦٠٠.000000 bf-" + "a" * 26),
    ],
)
def test_an_invalid_cursor_is_refused(fleet: Fleet, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="Not a valid cursor"):
        fleet.page(after=cursor)


def test_an_empty_cursor_means_the_first_page(crowd: Fleet) -> None:
    assert crowd.page(after="") == crowd.page(after=None)


@pytest.mark.parametrize("name", ["organization", "execution", "text"])
def test_a_lone_surrogate_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        a_filter(**{name: "a\udcffb"})


@pytest.mark.parametrize("name", ["organization", "execution", "text"])
@pytest.mark.parametrize(
    "value", ["\x00", "batch queued ", "\n", "*", "[", "~", "\x7f", "🙂" * 300, "x" * 300]
)
def test_an_odd_filter_matches_no_job(crowd: Fleet, name: str, value: str) -> None:
    assert crowd.page(a_filter(**{name: value})) == ListedJobs((), None)


# While jobs change


def test_no_job_is_listed_twice_and_live_ones_are_listed_once(fleet: Fleet) -> None:
    random = Random(7)
    populate(fleet.store, range(150))
    before = {job.id for job in fleet.everything()}
    ended: set[str] = set()
    shown: list[str] = []
    after, serial = None, 150
    while True:
        page = fleet.page(limit=11, after=after)
        shown += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            break
        populate(fleet.store, range(serial, serial + 3))
        serial += 3
        live = [job for job in fleet.everything() if job.state in LIVE]
        for job in random.sample(live, 4):
            if job.state is JobState.QUEUED:
                fleet.change(job.id, to=JobState.RUNNING)
            else:
                fleet.change(job.id, to=JobState.SUCCEEDED)
                ended.add(job.id)
    assert len(shown) == len(set(shown))
    assert before - ended <= set(shown)
    assert ended & before, "nothing ended while the pages were read"


def test_pages_are_consistent_during_writes(redis_url: str) -> None:
    with fleet_on("redis", lambda: redis_url) as fleet:
        populate(fleet.store, range(200))
        steady = {job.id for job in fleet.everything() if job.state not in LIVE}
        live = [job.id for job in fleet.everything() if job.state in LIVE]
        done = threading.Event()

        def write() -> None:
            for serial in range(1_000, 1_400):
                if done.is_set():
                    return
                populate(fleet.store, [serial])
                if live:
                    fleet.change(live.pop(), to=JobState.RUNNING)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            while writer.is_alive():
                shown = [job.id for page in fleet.pages(JobFilter(), 13) for job in page]
                assert len(shown) == len(set(shown))
                assert steady <= set(shown)
        finally:
            done.set()
            writer.join()


# One job


def test_a_job_is_found_by_its_id_batch_and_file(fleet: Fleet) -> None:
    upload, batch = fleet.made(JobKind.UPLOAD), fleet.made()
    fleet.change(upload.job_id, fields={"input_file_id": "file-1:a/b.c=d"})
    fleet.change(batch.job_id, fields={"batch_id": "projects/1/batch:7"})
    for text, job_request in {
        batch.job_id: batch,
        "projects/1/batch:7": batch,
        "file-1:a/b.c=d": upload,
    }.items():
        assert fleet.find(text).id == job_request.job_id


@pytest.mark.parametrize("text", ["bf-" + "a" * 26, "batch_unknown", "file-unknown", "a/b"])
def test_an_unknown_job(fleet: Fleet, text: str) -> None:
    with pytest.raises(JobNotFound, match=re.escape(text)):
        fleet.find(text)


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\n", "../../etc/passwd", "a b", "ü", "\ud800", "x" * 257]
)
def test_an_invalid_id_is_refused(fleet: Fleet, text: str) -> None:
    with pytest.raises(InvalidInput, match="Not a valid id"):
        fleet.find(text)


def test_a_batch_whose_job_was_purged(fleet: Fleet) -> None:
    job_request = fleet.made()
    fleet.change(job_request.job_id, to=JobState.FAILED, fields={"batch_id": "batch_1"})
    assert fleet.store.run(records.purge(job_request.job_id, retention_s=-1))
    with pytest.raises(JobNotFound, match="batch_1"):
        fleet.find("batch_1")


def test_details_have_spec_result_and_history(fleet: Fleet) -> None:
    job_request = fleet.made(execution="p/d/e/n", attempt=1)
    fleet.change(
        job_request.job_id,
        to=JobState.RUNNING,
        stage=Stage.IN_PROGRESS,
        fields={"batch_id": "batch_1", "openai_status": "in_progress"},
    )
    fleet.change(
        job_request.job_id,
        to=JobState.SUCCEEDED,
        stage=Stage.ENDED,
        fields={"openai_status": "completed", "result": '{"id": "batch_1"}', "message": "Done."},
    )
    shown = JobDetails.of(fleet.job(job_request.job_id)).model_dump(mode="json")
    assert (shown["state"], shown["phase"]) == ("succeeded", Phase.SUCCEEDED)
    assert shown["spec"]["input_file_id"] == "file-1"
    assert shown["result"] == {"id": "batch_1"}
    assert [
        (event["state"], event["openai_status"], event["source"], event["message"])
        for event in shown["timeline"]
    ] == [
        ("queued", "", "create", ""),
        ("running", "in_progress", "test", ""),
        ("succeeded", "completed", "test", "Done."),
    ]
    assert shown["timeline"][0]["at"] <= shown["timeline"][-1]["at"]
    assert JobView.of(fleet.job(job_request.job_id)).model_dump().keys() < shown.keys()


def test_a_history_has_no_control_characters(fleet: Fleet) -> None:
    job_request = fleet.made()
    fleet.change(
        job_request.job_id,
        to=JobState.RUNNING,
        fields={"openai_status": "odd\tstatus\nof\r\nanother server", "message": "a\tb\nc\x00d"},
    )
    first, last = timeline(fleet.job(job_request.job_id))
    assert first.state is JobState.QUEUED
    assert (last.openai_status, last.message) == ("odd status of  another server", "a b c d")


def test_a_history_is_cut_between_characters(fleet: Fleet) -> None:
    job_request = fleet.made()
    for length in (299, 300, 301):
        fleet.change(job_request.job_id, fields={"message": "x" * (length % 3) + "€" * 200})
    messages = [event.message for event in timeline(fleet.job(job_request.job_id))[1:]]
    assert all(re.fullmatch("x*€{90,100}…", message) for message in messages), messages


# Cancellation


def test_a_job_that_is_not_at_openai_is_cancelled_at_once(fleet: Fleet) -> None:
    job_request = fleet.made(JobKind.UPLOAD)
    done = fleet.cancel(job_request.job_id)
    assert (done.result, done.delayed) == (CancelResult.CANCELLED, False)
    assert (done.job.state, done.job.message) == (JobState.CANCELLED, "Not needed.")
    assert timeline(done.job)[-1].source == "test"
    assert fleet.sent == []


def test_a_batch_at_openai_is_cancelled_by_a_worker(fleet: Fleet) -> None:
    job_request = fleet.made()
    fleet.store.run(records.begin(job_request.job_id))
    fleet.change(job_request.job_id, to=JobState.RUNNING, fields={"batch_id": "batch_1"})
    for text in ("batch_1", job_request.job_id):
        done = fleet.cancel(text)
        assert (done.result, done.delayed) == (CancelResult.REQUESTED, False)
        assert (done.job.state, done.job.cancel_requested) == (JobState.RUNNING, True)
    assert fleet.sent == [(Step.CANCEL, job_request.job_id)] * 2


def test_without_a_broker_the_request_is_recorded_and_due(fleet: Fleet) -> None:
    job_request = fleet.made()
    fleet.store.run(records.begin(job_request.job_id))
    fleet.broker_is_unavailable = True
    done = fleet.cancel(job_request.job_id)
    assert (done.result, done.delayed) == (CancelResult.REQUESTED, True)
    assert fleet.job(job_request.job_id).cancel_requested
    assert fleet.store.run(records.claim_due(10, hold_s=1)) == [job_request.job_id]


def test_an_ended_job_is_not_changed(fleet: Fleet) -> None:
    job_request = fleet.made()
    fleet.change(job_request.job_id, to=JobState.SUCCEEDED, fields={"message": "Done."})
    before = fleet.job(job_request.job_id)
    done = fleet.cancel(job_request.job_id)
    assert (done.result, done.delayed) == (CancelResult.ENDED, False)
    assert done.job == before
    assert fleet.sent == []


def test_an_unknown_job_cannot_be_cancelled(fleet: Fleet) -> None:
    with pytest.raises(JobNotFound):
        fleet.cancel("batch_unknown")
    with pytest.raises(InvalidInput):
        fleet.cancel("no id")


def test_purging_a_record_removes_it_from_the_index(fleet: Fleet) -> None:
    populate(fleet.store, range(60))
    for job in fleet.everything():
        if job.state in LIVE:
            fleet.change(job.id, to=JobState.CANCELLED)
    for job in fleet.everything():
        assert fleet.store.run(records.purge(job.id, retention_s=-1))
    assert fleet.page() == ListedJobs((), None)
    assert fleet.store.run(Command("EXISTS", [keys.INDEX], [], bool)) is False


# The events stream


def test_transitions_are_read_from_any_entry(fleet: Fleet) -> None:
    assert fleet.store.run_all([events.oldest(), events.newest()]) == [None, None]
    job_request = fleet.made(JobKind.UPLOAD)
    before_s = fleet.store.run(records.time())
    fleet.change(job_request.job_id, to=JobState.RUNNING, fields={"message": "a\nb"})
    after_s = fleet.store.run(records.time())
    first, second = fleet.store.run(events.entries(events.BEGINNING, 10))
    assert fleet.store.run_all([events.oldest(), events.newest()]) == [first.id, second.id]
    assert first.id < second.id
    assert fleet.store.run(events.entries(first.id, 10)) == [second]
    assert fleet.store.run(events.entries(events.BEGINNING, 1)) == [first]
    assert fleet.store.run(events.entries(second.id, 10)) == []
    last = second.transition
    assert last
    assert (last.job_id, last.kind, last.before) == (job_request.job_id, "upload", JobState.QUEUED)
    assert (last.state, last.message, last.source) == (JobState.RUNNING, "a\nb", "test")
    # The id of an entry has milliseconds.
    assert before_s - 0.001 <= last.at.timestamp() <= after_s
    assert first.transition
    assert first.transition.before is None


def test_waiting_ends_with_the_next_transition_or_the_timeout(fleet: Fleet) -> None:
    assert not fleet.store.run(events.wait(events.BEGINNING, for_s=0.01))
    job_request = fleet.made()
    newest = fleet.store.run(events.newest())
    assert newest
    assert fleet.store.run(events.wait(events.BEGINNING, for_s=30))
    assert not fleet.ask(lambda reader: reader.run(events.wait(newest, for_s=0.01)))
    change = threading.Timer(
        0.05, fleet.change, [job_request.job_id], {"fields": {"message": "new"}}
    )
    change.start()
    assert fleet.ask(lambda reader: reader.run(events.wait(newest, for_s=3)))
    change.join()


@pytest.mark.parametrize("text", ["0-0", "1767225600000-12", f"{2**64 - 1}-{2**64 - 1}"])
def test_an_entry_id_has_redis_form(text: str) -> None:
    assert str(events.EntryId.parse(text)) == text


def test_entry_ids_are_sorted_by_number() -> None:
    assert events.EntryId.parse("9-9") < events.EntryId.parse("9-10") < events.EntryId.parse("10-0")
