import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchflow.jobs import (
    DEFAULT_SECRET_KEY,
    BatchSpec,
    Credential,
    DownloadSpec,
    Job,
    JobRequest,
    Spec,
    UploadSpec,
    derived_job_id,
    generation_id,
    is_job_id,
    is_openai_id,
    random_job_id,
)
from batchflow.states import JobKind, JobState, Stage

FIRST_ID = "bf-" + "a2" * 13
UPLOAD = UploadSpec(credential=Credential(), uri="s3://bucket/in.jsonl")
BATCH = BatchSpec(credential=Credential(), input_file_id="file-1", config={"model": "gpt-test"})
DOWNLOAD = DownloadSpec(credential=Credential(), output_file_id="file-2", destination="/out")
#: The fields that every record has had since the first version.
OLDEST_RECORD = {
    "id": FIRST_ID,
    "kind": "batch",
    "state": "running",
    "spec": BATCH.model_dump_json(),
    "created_at": "1700000000.250000",
    "updated_at": "1700000001",
}


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_a_derived_id_is_stable_and_valid(identity: list[bytes]) -> None:
    job_id = derived_job_id(*identity)
    assert job_id == derived_job_id(*identity)
    assert is_job_id(job_id)


@given(*[st.lists(st.binary(max_size=4), max_size=4)] * 2)
def test_a_derived_id_depends_on_each_part_and_its_length(
    one: list[bytes], other: list[bytes]
) -> None:
    assert (derived_job_id(*one) == derived_job_id(*other)) is (one == other)


def test_random_ids_differ() -> None:
    ids = {random_job_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(map(is_job_id, ids))


def test_ids_of_later_generations_have_their_number() -> None:
    assert generation_id(FIRST_ID, 1) == FIRST_ID
    assert generation_id(FIRST_ID, 2) == f"{FIRST_ID}-2"
    assert is_job_id(generation_id(FIRST_ID, 999))


@pytest.mark.parametrize(
    "text",
    [
        *("", "bf-", FIRST_ID[:-1], FIRST_ID + "a", FIRST_ID.upper(), FIRST_ID + "\n"),
        *(FIRST_ID + "-0", FIRST_ID + "-01", FIRST_ID + "-2-3", FIRST_ID + "-1234567"),
        *("bf-" + "1" * 26, "bf-../../../etc/passwd-aaaaaa", f" {FIRST_ID}", f"x:{FIRST_ID}"),
    ],
)
def test_an_invalid_job_id_is_refused(text: str) -> None:
    assert not is_job_id(text)
    with pytest.raises(ValidationError):
        JobRequest(job_id=text, spec=UPLOAD)


@pytest.mark.parametrize("text", ["file-abc", "batch_67a", "file:eu/1=x", "a", "a" * 256])
def test_ids_of_openai_and_compatible_servers_are_accepted(text: str) -> None:
    assert is_openai_id(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a" * 257, "../secrets", "file-1/../../x", "file 1", "file-1\n", "file?x"),
        *("file#x", "/file", "-x", "ü", "file%2e"),
    ],
)
def test_hostile_openai_ids_are_refused(text: str) -> None:
    assert not is_openai_id(text)
    with pytest.raises(ValidationError):
        BatchSpec(credential=Credential(), input_file_id=text, config={})


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b", "", "a b", ".hidden", "a\n", "a..b"])
@pytest.mark.parametrize("part", ["group", "key", "group_version"])
def test_the_name_of_a_secret_cannot_be_a_path(part: str, name: str) -> None:
    with pytest.raises(ValidationError):
        Credential.model_validate({part: name})


@pytest.mark.parametrize("organization", ["", "a b", "a\r\nX-Evil: 1", "ü", "a" * 129])
def test_an_organization_can_be_sent_as_a_header(organization: str) -> None:
    with pytest.raises(ValidationError):
        Credential(organization=organization)


@pytest.mark.parametrize(
    ("credential", "shown"),
    [
        (Credential(), DEFAULT_SECRET_KEY),
        (Credential(group="openai", key="key"), "openai/key"),
        (Credential(group="openai", key="key", group_version="v2"), "openai/v2/key"),
        (Credential(group="openai", key=None), "openai"),
        (Credential(organization="org-1"), f"{DEFAULT_SECRET_KEY}@org-1"),
    ],
)
def test_a_credential_is_shown_by_the_name_of_its_secret(
    credential: Credential, shown: str
) -> None:
    assert str(credential) == shown


@pytest.mark.parametrize(
    "job_request",
    [
        JobRequest(job_id=FIRST_ID, spec=UPLOAD),
        JobRequest(job_id=FIRST_ID, spec=BATCH, execution="p/d/e/n", attempt=3),
        JobRequest(job_id=f"{FIRST_ID}-2", spec=DOWNLOAD, generation=2),
        JobRequest(
            job_id=FIRST_ID,
            spec=BatchSpec(
                credential=Credential(organization="org-1", group="openai", key=None),
                input_file_id="file-1",
                config={"metadata": {"ключ": "значение"}, "endpoint": None},
            ),
        ),
    ],
)
def test_a_job_request_survives_json(job_request: JobRequest) -> None:
    again = JobRequest.model_validate_json(job_request.model_dump_json())
    assert again == job_request
    assert again.spec.credential.key == job_request.spec.credential.key


def test_a_job_request_ignores_fields_of_a_later_version() -> None:
    fields = json.loads(JobRequest(job_id=FIRST_ID, spec=UPLOAD).model_dump_json())
    job_request = JobRequest.model_validate({**fields, "colour": "red"})
    assert job_request == JobRequest(job_id=FIRST_ID, spec=UPLOAD)


@pytest.mark.parametrize(
    ("spec", "expected", "rest"),
    [
        (UPLOAD, {"kind": "upload"}, {"uri": "s3://bucket/in.jsonl"}),
        (
            BATCH,
            {"kind": "batch", "input_file_id": "file-1", "model": "gpt-test"},
            {"config": {"model": "gpt-test"}},
        ),
        (DOWNLOAD, {"kind": "download", "output_file_id": "file-2"}, {"destination": "/out"}),
    ],
)
def test_a_record_has_the_known_fields(
    spec: Spec, expected: dict[str, str], rest: dict[str, Any]
) -> None:
    job_request = JobRequest(job_id=FIRST_ID, spec=spec, attempt=1, execution="p/d/e/n")
    record = job_request.record()
    assert json.loads(record.pop("spec")) == rest
    assert record == expected | {
        "credential": DEFAULT_SECRET_KEY,
        "execution": "p/d/e/n",
        "attempt": "1",
    }


NAMED = Credential(organization="org-1", group="openai", key=None, group_version="2")
CONFIG = {"metadata": {"ключ": "значение"}, "endpoint": None}
SPECS = [
    UPLOAD,
    BATCH,
    DOWNLOAD,
    UploadSpec(credential=NAMED, uri="/in.jsonl"),
    BatchSpec(credential=NAMED, input_file_id="file-1", config=CONFIG, accept_partial=True),
    BatchSpec(credential=Credential(organization="org-1"), input_file_id="file-1", config={}),
    DownloadSpec(credential=NAMED, error_file_id="file-3", destination="s3://bucket/out"),
    DownloadSpec(credential=NAMED, destination="/out"),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("whole", [False, True], ids=["as it is stored", "as it was stored whole"])
def test_a_record_has_the_spec(spec: Spec, whole: bool) -> None:
    record = JobRequest(job_id=FIRST_ID, spec=spec).record()
    if whole:
        record |= {"spec": spec.model_dump_json(), "version": "1"}
    # An upload gets its file id later.
    found = {"input_file_id": "file-9"} if spec.kind is JobKind.UPLOAD else {}
    job = Job.model_validate(OLDEST_RECORD | record | found)
    assert job.spec == spec
    assert job.spec.credential.key == spec.credential.key


@pytest.mark.parametrize("stored", ["", "{", "[]", '{"credential": []}', '{"config": {}}'])
def test_an_invalid_spec_in_a_record_is_an_error(stored: str) -> None:
    record = JobRequest(job_id=FIRST_ID, spec=UPLOAD).record()
    with pytest.raises(ValidationError) as caught:
        Job.model_validate(OLDEST_RECORD | record | {"spec": stored})
    assert {problem["loc"][0] for problem in caught.value.errors()} == {"spec"}


def test_an_older_record_is_read_with_defaults() -> None:
    job = Job.model_validate(OLDEST_RECORD)
    assert job.kind is JobKind.BATCH
    assert job.state is JobState.RUNNING
    assert job.spec == BATCH
    assert job.created_at == datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)
    assert (job.stage, job.tries, job.total, job.message) == (Stage.NONE, 0, 0, "")
    assert job.result is None
    assert job.checked_at is None
    assert not job.cancel_requested
    assert not job.terminal


def test_a_record_is_parsed_from_strings() -> None:
    fields: dict[str, Any] = {
        "state": "succeeded",
        "stage": "4",
        "total": "12",
        "cancel_requested": "1",
        "checked_at": "1700000002.5",
        "result": '{"id": "batch_1"}',
        "from_the_future": "ignored",
    }
    job = Job.model_validate(OLDEST_RECORD | fields)
    assert job.terminal
    assert job.succeeded
    assert job.stage is Stage.ENDED
    assert job.total == 12
    assert job.cancel_requested
    assert job.result == {"id": "batch_1"}
    assert job.checked_at is not None
    assert job.checked_at.tzinfo is not None


def test_jobs_are_frozen() -> None:
    job = Job.model_validate(OLDEST_RECORD)
    with pytest.raises(ValidationError, match=re.compile("frozen", re.IGNORECASE)):
        job.message = "changed"
