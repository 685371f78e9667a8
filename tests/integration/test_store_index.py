"""The index of jobs, counts and events, for all stores, over fakeredis and Redis."""

from itertools import product

import pytest

from batchflow.jobs import BatchSpec, Credential
from batchflow.states import JobKind, JobState
from batchflow.store import index, keys, records
from tests.kit.job_requests import a_job_request
from tests.kit.stores import LATER_S, StoreHarness

# Recent changes, counts and events


def test_recent_has_the_last_change_first(store: StoreHarness) -> None:
    one, two, three = (store.created() for _ in range(3))
    store.changed(one, fields={"message": "Changed."})
    assert store.run(index.recent(2)) == [one.job_id, three.job_id]
    assert store.run(index.recent(2, offset=2)) == [two.job_id]


def test_unchanged_since_has_the_oldest_change_first(store: StoreHarness) -> None:
    one, two, three = (store.created() for _ in range(3))
    before_three_s = store.job(two).updated_at.timestamp() + 1e-7
    store.changed(one, fields={"message": "Changed."})
    assert store.run(index.unchanged_since(before_three_s, 10)) == [two.job_id]
    now_s = store.run(records.time()) + 1
    assert store.run(index.unchanged_since(now_s, 2)) == [two.job_id, three.job_id]
    assert store.run(index.unchanged_since(now_s, 2, offset=2)) == [one.job_id]
    assert store.run(index.unchanged_since(now_s - LATER_S, 10)) == []


def test_counts_agree_with_the_records(store: StoreHarness) -> None:
    assert store.run(index.counts()) == {}
    expected: dict[tuple[JobKind, JobState], int] = {}
    for number, (kind, state) in enumerate(product(JobKind, JobState), start=1):
        for _ in range(number % 3):
            store.in_state(state, kind)
        expected[kind, state] = number % 3
    counts = store.run(index.counts())
    assert {place: counts.get(place, 0) for place in expected} == expected


def test_every_transition_is_an_event(store: StoreHarness) -> None:
    job_request = store.created()
    store.changed(
        job_request,
        to=JobState.RUNNING,
        source="submit",
        fields={"openai_status": "validating", "message": "Sent."},
    )
    store.changed(job_request, to=JobState.SUCCEEDED, source="poll", fields={"message": ""})
    first, second, third = store.events()
    assert first == {
        "job_id": job_request.job_id,
        "kind": "batch",
        "before": "",
        "state": "queued",
        "openai_status": "",
        "message": "",
        "source": "create",
    }
    assert second == first | {
        "before": "queued",
        "state": "running",
        "openai_status": "validating",
        "message": "Sent.",
        "source": "submit",
    }
    assert (third["before"], third["state"], third["message"]) == ("running", "succeeded", "")


def test_the_events_stream_is_trimmed(store: StoreHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_EVENTS", 10)
    job_request = store.created()
    for number in range(300):
        store.changed(job_request, fields={"message": f"Message {number}."})
    events = store.events()
    # Redis drops whole nodes of a hundred.
    assert 10 <= len(events) <= 110
    assert events[-1]["message"] == "Message 299."


# The index


def listed(store: StoreHarness, kind: JobKind, state: JobState, **scope: str) -> list[str]:
    """The ids in the index, read two at a time."""
    found: list[index.IndexEntry] = []
    while page := store.run(
        index.entries(
            index.IndexScope.of(**scope),
            kind,
            state,
            limit=2,
            before=str(found[-1]) if found else "",
        )
    ):
        found += page
    return [entry.job_id for entry in found]


def test_live_jobs_are_listed_by_creation(store: StoreHarness) -> None:
    jobs = [store.created() for _ in range(5)]
    store.changed(jobs[1], fields={"message": "News."})
    newest_first = [job_request.job_id for job_request in reversed(jobs)]
    assert listed(store, JobKind.BATCH, JobState.QUEUED) == newest_first
    oldest = store.run(index.oldest_entry(JobKind.BATCH, JobState.QUEUED))
    assert oldest is not None
    assert oldest.job_id == jobs[0].job_id
    assert float(oldest.time) == pytest.approx(store.job(jobs[0]).created_at.timestamp(), abs=1e-5)


def test_ended_jobs_are_listed_by_their_end(store: StoreHarness) -> None:
    first, second = store.created(), store.created()
    for job_request in (second, first):
        store.changed(job_request, to=JobState.FAILED)
    assert listed(store, JobKind.BATCH, JobState.FAILED) == [first.job_id, second.job_id]
    assert listed(store, JobKind.BATCH, JobState.QUEUED) == []
    since = index.count_since
    ended_s = store.job(first).updated_at.timestamp()
    assert store.run(since(JobKind.BATCH, JobState.FAILED, ended_s - 60)) == 2
    assert store.run(since(JobKind.BATCH, JobState.FAILED, ended_s + 60)) == 0


def test_jobs_are_listed_under_organization_and_execution(store: StoreHarness) -> None:
    spec = BatchSpec(credential=Credential(organization="org-a"), input_file_id="file-1", config={})
    job_request = a_job_request(spec=spec, execution="p/d/f123/n0")
    store.run(records.create(job_request, due_in_s=0))
    store.created()
    store.changed(job_request, to=JobState.RUNNING)
    for scope in ({"organization": "org-a"}, {"execution": "f123"}):
        assert listed(store, JobKind.BATCH, JobState.RUNNING, **scope) == [job_request.job_id]
    assert listed(store, JobKind.BATCH, JobState.RUNNING, organization="org-") == []
    store.changed(job_request, to=JobState.FAILED)
    store.run(records.purge(job_request.job_id, retention_s=-10))
    assert all(job_request.job_id not in member for member in store.raw(keys.INDEX))


def test_every_used_credential_is_listed(store: StoreHarness) -> None:
    spec = BatchSpec(
        credential=Credential(organization="org-a", group="g", key="k"),
        input_file_id="file-1",
        config={},
    )
    store.run(records.create(a_job_request(spec=spec), due_in_s=0))
    store.created()
    known = store.run(index.credentials())
    assert known == {"g/k@org-a": spec.credential, "FLYTE_OPENAI_API_KEY": Credential()}
