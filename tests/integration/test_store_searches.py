"""The commands of searches and notes: one contract for all stores, over fakeredis and Redis."""

from dataclasses import replace

import pytest

from batchflow.jobs import generation_id, random_job_id
from batchflow.states import JobKind, JobState
from batchflow.store import index, keys, records, searches
from batchflow.store.searches import Question, Search
from tests.kit.stores import StoreHarness

NAME = "batches:KEY@org-1"
A, B, C = (random_job_id() for _ in range(3))


def asked(
    store: StoreHarness, job_id: str = A, *, since_s: float = 10, later_s: float = -60
) -> Question:
    """A question of a job whose try was settled ``later_s`` from now."""
    return Question(job_id, store.run(records.time()) + later_s, 1_000.0 - since_s)


def begun(store: StoreHarness, question: Question) -> Search:
    return store.run(searches.begin(NAME, question))


def advanced(store: StoreHarness, search: Search, after: str, **options: object) -> Search:
    assert store.run(searches.advance(NAME, search, after, **options)) >= 0  # type: ignore[arg-type]
    return replace(search, after=after)


def test_a_search_begins_at_the_top_and_goes_back_as_far_as_the_job_needs(
    store: StoreHarness,
) -> None:
    question = asked(store)
    assert store.run(searches.wait_for(NAME, question)) is None
    search = begun(store, question)
    assert (search.after, search.done, search.not_before_s) == ("", False, 990)
    assert float(search.started_at) == pytest.approx(store.run(records.time()), abs=5)
    assert not search.answers(question)
    ttl_s = store.redis.ttl(f"{store.prefix}:{keys.search(NAME)}")
    assert 0 < ttl_s <= keys.SEARCH_TTL_S


def test_any_worker_continues_a_search(store: StoreHarness) -> None:
    search = advanced(store, begun(store, asked(store, A)), "batch_9")
    assert begun(store, asked(store, B)) == replace(search, waiting=1)


def test_a_search_goes_further_back_for_another_job(store: StoreHarness) -> None:
    search = advanced(store, begun(store, asked(store, A)), "batch_9", done=True)
    further = asked(store, B, since_s=500)
    found = begun(store, further)
    assert found == replace(search, done=False, not_before_s=500, waiting=1)
    advanced(store, found, "batch_99", done=True)
    for question in (further, asked(store, A)):
        known = store.run(searches.wait_for(NAME, question))
        assert known is not None
        assert known.answers(question)


def test_a_search_does_not_answer_for_a_try_that_was_not_settled(store: StoreHarness) -> None:
    search = advanced(store, begun(store, asked(store, A)), "batch_9", done=True)
    later = asked(store, B, later_s=60)
    known = store.run(searches.wait_for(NAME, later))
    assert known is not None
    assert not known.answers(later)
    new = begun(store, later)
    assert new.started_at > search.started_at
    assert (new.after, new.done) == ("", False)


def test_a_search_ends_before_another_begins_if_jobs_wait_for_it(store: StoreHarness) -> None:
    search = advanced(store, begun(store, asked(store, A)), "batch_9")
    later = asked(store, B, later_s=60)
    assert begun(store, later).started_at == search.started_at
    advanced(store, search, "batch_10", served=[A])
    new = begun(store, later)
    assert (new.started_at > search.started_at, new.after) == (True, "")


def test_a_paused_worker_does_not_move_a_search(store: StoreHarness) -> None:
    search = begun(store, asked(store, A))
    advanced(store, search, "batch_9")
    assert store.run(searches.advance(NAME, search, "batch_5", done=True)) == -1
    assert begun(store, asked(store, A)).after == "batch_9"
    store.run(searches.forget(NAME))
    assert store.run(searches.advance(NAME, search, "batch_5")) == -1
    assert store.raw(keys.search(NAME)) is None


def test_jobs_wait_until_they_are_served(store: StoreHarness) -> None:
    search = begun(store, asked(store, A))
    for job_id in (B, C):
        assert store.run(searches.wait_for(NAME, asked(store, job_id)))
    waiting = store.run(searches.waiting(NAME))
    assert sorted(waiting) == sorted([A, B, C])
    assert store.run(searches.advance(NAME, search, "batch_9", served=[A, B])) == 1
    assert store.run(searches.leave(NAME, C))
    assert store.run(searches.waiting(NAME)) == []


def test_the_first_fallback_of_a_job_is_kept(store: StoreHarness) -> None:
    search = begun(store, asked(store, A))
    search = advanced(store, search, "batch_9", fallbacks={A: "batch_7"})
    search = advanced(store, search, "batch_19", fallbacks={A: "batch_17", B: "batch_18"})
    advanced(store, search, "batch_19", done=True)
    for job_id, fallback_id in ((A, "batch_7"), (B, "batch_18"), (C, "")):
        known = store.run(searches.wait_for(NAME, asked(store, job_id)))
        assert known is not None
        assert known.fallback_id == fallback_id


def test_live_jobs_of_later_generations_are_listed(store: StoreHarness) -> None:
    first = random_job_id()
    second = generation_id(first, 2)
    for job_id in (first, second):
        store.created(job_id=job_id)
    store.in_state(JobState.FAILED, job_id=generation_id(first, 3))
    assert store.run(index.later_generations()) == ("0", [second])


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.SUCCEEDED])
def test_a_note_is_added_to_the_history_once(store: StoreHarness, state: JobState) -> None:
    job_request = store.in_state(state)
    before, events = store.job(job_request), len(store.events())
    note = records.note(job_request.job_id, "Cancelled a second batch: batch_2", source="poll")
    assert store.run(note)
    assert not store.run(note)
    after = store.job(job_request)
    assert after.history.splitlines()[-1].split("\t")[1:] == [
        state,
        "",
        "poll",
        "Cancelled a second batch: batch_2",
    ]
    assert after.model_copy(update={"history": before.history}) == before
    assert [event["message"] for event in store.events()[events:]] == [
        "Cancelled a second batch: batch_2"
    ]
    assert not store.run(records.note(random_job_id(), "Cancelled", source="poll"))


def test_an_ended_job_with_a_note_can_be_purged(store: StoreHarness) -> None:
    job_request = store.in_state(JobState.SUCCEEDED, JobKind.UPLOAD)
    assert store.run(records.note(job_request.job_id, "Deleted a file.", source="upload"))
    assert store.run(records.purge(job_request.job_id, retention_s=-1))
    assert store.raw(keys.INDEX) is None or store.raw(keys.INDEX) == {}
