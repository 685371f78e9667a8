from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from pydantic import JsonValue

from batchflow.errors import InvalidInput
from batchflow.job_requests.identity import make_job_request, next_generation
from batchflow.job_requests.specs import batch_spec, download_spec, upload_spec
from batchflow.jobs import BatchSpec, Credential, Job, JobRequest, Spec, is_job_id
from batchflow.states import JobState
from batchflow.store.records import Created

EXECUTION = "flytesnacks/development/f1/n0"
LOCATION = "s3://bucket/metadata/f1/n0/data"
CONFIG: dict[str, Any] = {"endpoint": "/v1/responses", "metadata": {"team": "a", "run": "7"}}
CUSTOM: dict[str, Any] = {"openai_organization": "org-1", "config": CONFIG}
SECRET = {"group": "openai", "key": "key", "group_version": "", "mount_requirement": 1}


def job_request(
    spec: Spec | None = None,
    *,
    execution: str = EXECUTION,
    output_prefix: str = f"{LOCATION}/0",
    attempt: int = 0,
) -> JobRequest:
    spec = spec or batch_spec(CUSTOM, "file-1")
    return make_job_request(spec, execution=execution, output_prefix=output_prefix, attempt=attempt)


def as_received(custom: dict[str, Any]) -> dict[str, Any]:
    """A task's ``custom`` as the connector receives it."""
    struct = json_format.ParseDict(custom, struct_pb2.Struct())
    seen: dict[str, Any] = json_format.MessageToDict(struct)
    return seen


def reordered(value: JsonValue) -> JsonValue:
    """The same dict with its keys in reverse order."""
    if not isinstance(value, dict):
        return value
    return {key: reordered(value[key]) for key in reversed(value)}


# Specs


def test_an_upload_has_the_secret_that_it_names() -> None:
    spec = upload_spec({"openai_organization": "org-1", "secret_arg": SECRET}, "s3://b/in.jsonl")
    assert spec.uri == "s3://b/in.jsonl"
    assert spec.credential == Credential(organization="org-1", group="openai", key="key")


def test_a_batch_uses_the_default_secret() -> None:
    spec = batch_spec(as_received(CUSTOM), "file-1")
    assert spec.credential == Credential(organization="org-1")
    assert spec.config == CONFIG


def test_a_secret_may_have_no_key() -> None:
    spec = upload_spec({"secret_arg": {"group": "openai", "key": None}}, "/in.jsonl")
    assert spec.credential == Credential(group="openai", key=None)


def test_a_download_has_the_files_that_exist() -> None:
    spec = download_spec(
        {"secret_arg": SECRET}, {"output_file_id": "file-2", "error_file_id": ""}, "s3://b/out"
    )
    assert (spec.output_file_id, spec.error_file_id) == ("file-2", None)
    assert spec.destination == "s3://b/out"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: upload_spec({}, ""), "The task is not valid. uri: "),
        (lambda: upload_spec({"secret_arg": "key"}, "/in"), "secret_arg must be a dict"),
        (lambda: upload_spec({"secret_arg": {"key": "../x"}}, "/in"), "key: "),
        (lambda: batch_spec({}, "../file"), "input_file_id: "),
        (lambda: batch_spec({"config": {"n": 1}}, "file-1"), "unknown key 'n'"),
        (lambda: batch_spec({"openai_organization": "a b"}, "file-1"), "organization: "),
        (lambda: download_spec({}, {"output_file_id": 7}, "/out"), "output_file_id: "),
        (lambda: download_spec({}, {}, ""), "destination: "),
    ],
)
def test_a_task_that_is_not_valid_is_refused(make: Callable[[], Spec], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make()


def test_an_error_does_not_repeat_the_value() -> None:
    with pytest.raises(InvalidInput) as caught:
        upload_spec({"secret_arg": {"key": "sk-proj-oops it was the key itself"}}, "/in")
    assert "sk-proj" not in str(caught.value)


# Identity


def test_the_same_task_has_the_same_id() -> None:
    first = job_request()
    assert job_request() == first
    assert is_job_id(first.job_id)
    assert (first.execution, first.attempt, first.generation) == (EXECUTION, 0, 1)


def test_the_attempt_does_not_count_for_the_id() -> None:
    later = job_request(output_prefix=f"{LOCATION}/1", attempt=1)
    assert later.job_id == job_request().job_id
    assert later.attempt == 1
    assert job_request(output_prefix=f"{LOCATION}/1/", attempt=1).job_id == later.job_id


@pytest.mark.parametrize(
    "other",
    [
        job_request(execution="flytesnacks/development/f1/n1"),
        job_request(execution="flytesnacks/development/f2/n0"),
        job_request(output_prefix=f"{LOCATION}/3/0"),
        job_request(batch_spec(CUSTOM, "file-2")),
        job_request(batch_spec({**CUSTOM, "config": {}}, "file-1")),
        job_request(batch_spec({**CUSTOM, "openai_organization": "org-2"}, "file-1")),
        job_request(batch_spec({**CUSTOM, "secret_arg": SECRET}, "file-1")),
        job_request(upload_spec({}, "file-1")),
    ],
)
def test_another_task_has_another_id(other: JobRequest) -> None:
    assert other.job_id != job_request().job_id


def test_the_elements_of_a_map_task_have_different_ids() -> None:
    elements = [job_request(output_prefix=f"{LOCATION}/{n}/0").job_id for n in range(3)]
    retried = [job_request(output_prefix=f"{LOCATION}/{n}/1", attempt=1).job_id for n in range(3)]
    assert len(set(elements)) == 3
    assert retried == elements


def test_the_order_of_keys_does_not_count_for_the_id() -> None:
    turned = {**CUSTOM, "config": reordered(CONFIG)}
    assert list(turned["config"]) != list(CONFIG)
    assert job_request(batch_spec(turned, "file-1")).job_id == job_request().job_id


def test_the_destination_does_not_count_for_the_id() -> None:
    batch = {"output_file_id": "file-2"}
    ids = {job_request(download_spec({}, batch, f"s3://raw/{n}")).job_id for n in range(2)}
    assert len(ids) == 1


def test_a_local_run_has_a_random_id() -> None:
    assert job_request(execution="").job_id != job_request(execution="").job_id


# Generations


def found(given: JobRequest, state: JobState, *, attempt: int = 0, new: bool = False) -> Created:
    """The store's reply for a job request whose job exists."""
    record = {"id": given.job_id, "state": state, "created_at": 0, "updated_at": 0, "source": ""}
    job = Job.model_validate({**given.record(), **record, "attempt": attempt})
    return Created(job, new)


BAD_ENDS = [JobState.FAILED, JobState.RETRYABLE, JobState.CANCELLED]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED])
def test_a_later_attempt_adopts_what_is_live_or_succeeded(state: JobState) -> None:
    later = job_request(attempt=1)
    assert next_generation(later, found(later, state)) is None


@pytest.mark.parametrize("state", BAD_ENDS)
def test_a_later_attempt_starts_the_next_generation_after_a_bad_end(state: JobState) -> None:
    later = job_request(attempt=1)
    following = next_generation(later, found(later, state))
    assert following is not None
    assert following == later.model_copy(
        update={"job_id": f"{later.job_id}-2", "generation": 2},
    )
    assert isinstance(following.spec, BatchSpec)


@pytest.mark.parametrize("state", JobState)
def test_a_later_attempt_starts_the_next_generation_of_a_replaced_job(state: JobState) -> None:
    later = job_request(attempt=1)
    created = found(later, state)
    assert created.job is not None
    replaced = Created(created.job.model_copy(update={"replaced": True}), new=False)
    following = next_generation(later, replaced)
    assert following is not None
    assert following.generation == 2


@pytest.mark.parametrize("state", JobState)
def test_the_same_attempt_gets_its_own_job(state: JobState) -> None:
    again = job_request(attempt=1)
    assert next_generation(again, found(again, state, attempt=1)) is None


def test_a_new_job_is_used() -> None:
    first = job_request(attempt=3)
    assert next_generation(first, found(first, JobState.QUEUED, new=True)) is None


def test_generations_are_numbered() -> None:
    first = job_request(attempt=9)
    given, ids = first, [first.job_id]
    for attempt in range(4):
        following = next_generation(given, found(given, JobState.FAILED, attempt=attempt))
        assert following is not None
        given = following
        ids.append(given.job_id)
    assert ids[1:] == [f"{first.job_id}-{n}" for n in (2, 3, 4, 5)]
    assert all(map(is_job_id, ids))


def test_the_number_of_generations_is_limited() -> None:
    last = job_request(attempt=1).model_copy(update={"generation": 1_000})
    with pytest.raises(InvalidInput, match="has failed 1000 times"):
        next_generation(last, found(last, JobState.FAILED))
