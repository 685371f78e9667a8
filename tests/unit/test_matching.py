"""Which batches and files are a job's."""

from datetime import UTC, datetime
from typing import Any

import pytest
from batchflow_workers.matching import (
    ended_badly,
    file_name,
    is_own,
    is_searching,
    is_second,
    matches,
    named_job,
)
from openai.types import Batch, FileObject

from batchflow.jobs import BatchSpec, Credential, Job, UploadSpec, derived_job_id, generation_id
from batchflow.states import JobKind, JobState, Stage

#: The same in all workers of pytest-xdist, because it is part of the names of tests.
FIRST = derived_job_id(b"first")
CREDENTIAL = Credential(organization="org-1")
CREATED_S = 1_800_000_000


def a_job(job_id: str = FIRST, *, config: dict[str, Any] | None = None, **fields: Any) -> Job:
    spec = BatchSpec(credential=CREDENTIAL, input_file_id="file-1", config=config or {})
    at = datetime.fromtimestamp(CREATED_S, UTC)
    known: dict[str, Any] = {
        "kind": JobKind.BATCH,
        "state": JobState.QUEUED,
        "spec": spec,
        "updated_at": at,
    }
    return Job.model_construct(id=job_id, created_at=at, **known | fields)


def a_batch(job_id: str = FIRST, **fields: Any) -> Batch:
    known: dict[str, Any] = {
        "id": "batch_1",
        "status": "in_progress",
        "created_at": CREATED_S,
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "metadata": {"batchflow_job": job_id},
    }
    return Batch.construct(**known | fields)


def a_file(name: str) -> FileObject:
    return FileObject.construct(id="file-1", filename=name, created_at=CREATED_S)


@pytest.mark.parametrize("metadata", [None, {}, {"batchflow_job": "mine"}, {"other": FIRST}])
def test_a_batch_without_the_id_of_a_job_names_none(metadata: dict[str, str] | None) -> None:
    assert named_job(a_batch(metadata=metadata)) is None


@pytest.mark.parametrize("name", ["in.jsonl", FIRST, f"{FIRST}.json", f"a-{FIRST}.jsonl"])
def test_a_file_with_another_name_names_no_job(name: str) -> None:
    assert named_job(a_file(name)) is None
    assert named_job(a_file(file_name(FIRST))) == FIRST


@pytest.mark.parametrize(
    ("fields", "matched"),
    [
        ({}, True),
        ({"job_id": generation_id(FIRST, 12)}, True),
        ({"job_id": derived_job_id(b"other")}, False),
        ({"input_file_id": "file-2"}, False),
        ({"endpoint": "/v1/embeddings"}, False),
        pytest.param({"endpoint": "/chat/completions"}, True, id="a server without /v1"),
        pytest.param({"endpoint": None, "input_file_id": None}, True, id="a server with less"),
    ],
)
def test_a_match_has_the_same_input_file_and_endpoint(
    fields: dict[str, Any], matched: bool
) -> None:
    assert matches(a_job(), a_batch(**fields), CREDENTIAL) is matched


def test_the_endpoint_is_that_of_the_config() -> None:
    job, batch = a_job(config={"endpoint": "/v1/embeddings"}), a_batch(endpoint="/v1/embeddings")
    assert matches(job, batch, CREDENTIAL)
    assert not matches(a_job(config={"endpoint": None}), batch, CREDENTIAL)


def test_a_match_was_shown_with_the_credential_of_the_job() -> None:
    assert not matches(a_job(), a_batch(), Credential(organization="org-2"))


def test_a_file_is_not_that_of_a_batch_job() -> None:
    spec = UploadSpec(credential=CREDENTIAL, uri="/in.jsonl")
    file = a_file(file_name(FIRST))
    assert matches(a_job(spec=spec, kind=JobKind.UPLOAD), file, CREDENTIAL)
    assert not matches(a_job(), file, CREDENTIAL)
    assert not matches(a_job(spec=spec, kind=JobKind.UPLOAD), a_batch(), CREDENTIAL)


@pytest.mark.parametrize(
    ("fields", "searching"),
    [
        ({"tries": 1}, True),
        ({"tries": 0}, False),
        ({"tries": 1, "batch_id": "batch_1"}, False),
        ({"tries": 1, "state": JobState.FAILED}, False),
    ],
)
def test_a_job_searches_until_it_knows_its_batch(fields: dict[str, Any], searching: bool) -> None:
    assert is_searching(a_job(**fields)) is searching


@pytest.mark.parametrize(
    ("status", "accept_partial", "badly"),
    [
        ("in_progress", False, False),
        ("paused", False, False),
        ("completed", False, False),
        ("cancelling", False, True),
        ("cancelled", False, True),
        ("failed", False, True),
        ("expired", False, True),
        ("expired", True, False),
    ],
)
def test_a_batch_that_ended_without_its_result_ended_badly(
    status: str, accept_partial: bool, badly: bool
) -> None:
    spec = BatchSpec(
        credential=CREDENTIAL, input_file_id="file-1", config={}, accept_partial=accept_partial
    )
    batch = a_batch(status=status, output_file_id="file-2")
    assert ended_badly(a_job(spec=spec), batch) is badly


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(CREATED_S + seconds, UTC)


@pytest.mark.parametrize(
    ("fields", "created_s", "own"),
    [
        pytest.param({"tried_at": at(5.5)}, 5, True, id="made by this try"),
        pytest.param({"tried_at": at(5.5)}, 4, False, id="made before this try"),
        pytest.param({"tried_at": None}, 5, False, id="of an earlier attempt"),
        pytest.param({"tried_at": at(-CREATED_S)}, 5, False, id="in a new store"),
        pytest.param(
            {"tried_at": None, "state": JobState.RUNNING, "stage": Stage.IN_PROGRESS},
            -500,
            True,
            id="rebuilt",
        ),
    ],
)
def test_a_batch_is_of_the_record_whose_try_made_it(
    fields: dict[str, Any], created_s: int, own: bool
) -> None:
    job = a_job(tries=1, **fields)
    assert is_own(job, a_batch(created_at=CREATED_S + created_s)) is own
    other_generation = a_batch(generation_id(FIRST, 2), created_at=CREATED_S + created_s)
    assert not is_own(job, other_generation)


@pytest.mark.parametrize(
    ("fields", "second"),
    [
        ({"batch_id": "batch_2", "state": JobState.RUNNING}, True),
        ({"batch_id": "batch_2", "state": JobState.SUCCEEDED}, True),
        ({"batch_id": "batch_1", "state": JobState.RUNNING}, False),
        ({"batch_id": "batch_1", "state": JobState.FAILED}, False),
        pytest.param({"state": JobState.CANCELLED}, True, id="ended without a batch"),
        pytest.param({"state": JobState.RUNNING}, False, id="may still take it"),
        ({"batch_id": "batch_2", "job_id": generation_id(FIRST, 2)}, False),
    ],
)
def test_a_batch_is_a_second_one_if_its_job_has_another(
    fields: dict[str, Any], second: bool
) -> None:
    assert is_second(a_job(**fields), a_batch(), CREDENTIAL) is second
    assert not is_second(a_job(**fields), a_batch(), Credential(organization="org-2"))
