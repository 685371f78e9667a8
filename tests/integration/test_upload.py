"""The upload step: one file per job, validated, whatever OpenAI answers."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from batchflow_workers.files import storage, transfer_progress
from batchflow_workers.files.validating_reader import AHEAD_BYTES, ValidatingReader
from batchflow_workers.policy import Policy

from batchflow.jobs import Job
from batchflow.requests import jsonl
from batchflow.requests.jsonl import ValidationMode
from batchflow.states import JobState
from batchflow.store import records
from tests.kit.processes import until
from tests.kit.workers import LINE, MakeWorkers, Workers, lines

MAX_FAILURES = Policy().max_failures
LIVE = (JobState.QUEUED, JobState.RUNNING)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(lines(5))
    return path


def test_upload_names_the_file_after_the_job(workers: Workers, file: Path) -> None:
    job_id = workers.upload(str(file))
    workers.step(job_id)
    job = workers.job(job_id)
    sent = workers.uploads()[-1]
    assert (sent["filename"], sent["bytes"]) == (f"{job_id}.jsonl", file.stat().st_size)
    assert (job.state, job.message) == (JobState.SUCCEEDED, "")
    assert job.result == {"file_id": sent["id"]}
    assert (job.input_file_id, job.total, job.model) == (sent["id"], 5, "gpt-test")
    assert job.bytes_done == job.bytes_total == sent["bytes"]


@pytest.mark.parametrize("validation", ["json", "off"])
def test_upload_validates_as_configured(
    make_workers: MakeWorkers, tmp_path: Path, validation: str
) -> None:
    workers = make_workers(validation=validation)
    (tmp_path / "in.jsonl").write_bytes(b'{"custom_id": "a", "prompt": "of another provider"}\n')
    job_id = workers.upload(f"file://{tmp_path}/in.jsonl")
    workers.step(job_id)
    assert (workers.job(job_id).message, workers.job(job_id).state) == ("", JobState.SUCCEEDED)


def sent_for(workers: Workers, job_id: str) -> list[dict[str, Any]]:
    """The files that OpenAI has of an upload job."""
    return [sent for sent in workers.uploads() if sent["filename"] == f"{job_id}.jsonl"]


def appended(file: Path) -> None:
    with file.open("ab") as more:
        more.write(b"no json")


def overwritten(file: Path) -> None:
    with file.open("r+b") as same:
        same.write(b"X")


def cut(file: Path) -> None:
    os.truncate(file, 10)


_LARGE_LINES = 18_000


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file whose transfer begins before its validation ends."""
    path = tmp_path / "large.jsonl"
    line = LINE.replace(b"Hello", b"Hello " * 200)
    path.write_bytes(b"".join(line % number for number in range(_LARGE_LINES)))
    assert AHEAD_BYTES + (1 << 20) < path.stat().st_size < 2 * AHEAD_BYTES
    return path


@pytest.mark.parametrize("change", [appended, overwritten, cut])
@pytest.mark.parametrize("which", ["file", "large"])
def test_a_file_that_changes_during_the_transfer_is_not_uploaded(
    workers: Workers,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    change: Callable[[Path], None],
) -> None:
    path: Path = request.getfixturevalue(which)
    whole = path.read_bytes()
    job_id = workers.upload(str(path))
    with monkeypatch.context() as patch:
        when(patch, ValidatingReader, "validate_ahead", lambda: change(path))
        workers.step(job_id)
    job = workers.job(job_id)
    assert job.message == f"{path} was changed while it was being read. (try 1 of {MAX_FAILURES})"
    assert (job.state, sent_for(workers, job_id)) == (JobState.RUNNING, [])
    # The next try validates again, and finds that no file has arrived.
    path.write_bytes(whole)
    with workers.calls(files_list=1, files_create=1):
        workers.step(job_id)
    [sent] = sent_for(workers, job_id)
    assert sent["bytes"] == len(whole)
    assert workers.job(job_id).result == {"file_id": sent["id"]}


def test_a_file_that_is_replaced_after_its_validation_is_sent_as_it_was(
    workers: Workers, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated_bytes = file.stat().st_size
    other = file.with_name("other.jsonl")
    other.write_bytes(b"no json\n")
    when(
        monkeypatch,
        ValidatingReader,
        "validate_ahead",
        lambda: other.exists() and other.replace(file),
    )
    job_id = workers.upload(str(file))
    workers.step(job_id)
    assert [sent["bytes"] for sent in sent_for(workers, job_id)] == [validated_bytes]
    assert workers.job(job_id).state is JobState.SUCCEEDED


def test_a_redirected_upload_sends_the_file_again(workers: Workers, large: Path) -> None:
    received: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        received.append(request.read())
        if request.url.path == "/v1/files":
            return httpx2.Response(308, headers={"location": "/openai/v1/files"})
        return httpx2.Response(
            200, json={"id": "file-1", "filename": "f", "created_at": 0, "object": "file"}
        )

    moved = workers.answered_by(answer)
    job_id = moved.upload(str(large))
    moved.step(job_id)
    assert moved.job(job_id).result == {"file_id": "file-1"}
    assert [large.read_bytes() in body for body in received] == [True, True]


def test_openai_never_has_a_large_file_with_an_invalid_end(
    workers: Workers, large: Path, file: Path
) -> None:
    with large.open("ab") as end:
        end.write(b"no json\n" + LINE % 0)
    job_id = workers.upload(str(large))
    workers.step(job_id)
    job = workers.job(job_id)
    assert (job.state, sent_for(workers, job_id)) == (JobState.FAILED, [])
    assert "2 problems; nothing was uploaded" in job.message
    assert f"line {_LARGE_LINES + 1}: not valid JSON" in job.message
    assert f"line {_LARGE_LINES + 2}: custom_id '0' was already used on line 1" in job.message
    # It does not delay other uploads with the same key.
    other = workers.upload(str(file))
    workers.step(other)
    assert workers.job(other).state is JobState.SUCCEEDED


def test_a_line_that_is_too_long_fails_the_upload(workers: Workers, file: Path) -> None:
    nested = b'{"custom_id": "long", "body": ' + b"[" * (jsonl.MAX_LINE_BYTES + 1) + b"\n"
    file.write_bytes(LINE % 0 + nested + LINE % 0)
    job_id = workers.upload(str(file))
    with workers.calls(files_create=0):
        workers.step(job_id)
    job = workers.job(job_id)
    assert job.state is JobState.FAILED
    assert "2 problems; nothing was uploaded" in job.message
    assert "line 2: it is longer than 16 MiB; split the request" in job.message
    assert "line 3: custom_id '0' was already used on line 1" in job.message


def test_a_large_file_with_an_invalid_beginning_is_not_sent(workers: Workers, large: Path) -> None:
    large.write_bytes(b"no json\n" + large.read_bytes() + b"no json\n")
    job_id = workers.upload(str(large))
    with workers.calls(files_create=0):
        workers.step(job_id)
    job = workers.job(job_id)
    assert job.state is JobState.FAILED
    assert "line 1: not valid JSON" in job.message
    assert f"line {_LARGE_LINES + 2}: not valid JSON" in job.message


def test_a_file_within_the_look_ahead_is_validated_before_it_is_sent(
    workers: Workers, file: Path
) -> None:
    line, bad = LINE % 0, b"no json"
    blanks = b" " * (AHEAD_BYTES - len(line) - len(bad))
    file.write_bytes(line.replace(b"\n", blanks + b"\n") + bad)
    assert file.stat().st_size == AHEAD_BYTES
    job_id = workers.upload(str(file))
    with workers.calls(files_create=0):
        workers.step(job_id)
    assert "line 2: not valid JSON" in workers.job(job_id).message


def test_an_upload_reports_its_progress(
    workers: Workers, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_progress, "_INTERVAL_S", 0.0)
    job_id = workers.upload(str(large))
    seen: list[Job] = []
    when(monkeypatch, ValidatingReader, "validate_ahead", lambda: seen.append(workers.job(job_id)))
    workers.step(job_id)
    size_bytes = large.stat().st_size
    under_way = [job for job in seen if 0 < job.bytes_done < size_bytes]
    assert len({job.bytes_done for job in under_way}) > 100
    assert {job.bytes_total for job in under_way} == {size_bytes}


def when(patch: pytest.MonkeyPatch, owner: type, name: str, also: Callable[[], object]) -> None:
    """Do something else just after each call of a method."""
    method = getattr(owner, name)

    def both(*args: Any, **options: Any) -> Any:
        answer = method(*args, **options)
        also()
        return answer

    patch.setattr(owner, name, both)


def test_a_remote_file_is_uploaded(remote: tuple[Workers, str, Any]) -> None:
    workers, uri, bucket = remote
    bucket.pipe(f"{uri}/in.jsonl", lines(5_000))
    job_id = workers.upload(f"{uri}/in.jsonl")
    workers.step(job_id)
    assert [sent["bytes"] for sent in sent_for(workers, job_id)] == [len(lines(5_000))]
    assert (workers.job(job_id).state, workers.job(job_id).total) == (JobState.SUCCEEDED, 5_000)
    missing = workers.upload(f"{uri}/none.jsonl")
    workers.step(missing)
    assert workers.job(missing).message == f"There is no file {uri}/none.jsonl."


def test_a_remote_file_is_copied_only_as_far_as_it_may_be_uploaded(
    remote: tuple[Workers, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, uri, bucket = remote
    monkeypatch.setattr(jsonl, "MAX_BYTES", 1 << 20)
    bucket.pipe(f"{uri}/in.jsonl", lines(1) + b" " * (20 << 20))
    with storage.source(f"{uri}/in.jsonl", ValidationMode.STRICT.max_bytes) as file:
        copied_bytes = file.seek(0, os.SEEK_END)
    assert 1 << 20 < copied_bytes < 10 << 20
    job_id = workers.upload(f"{uri}/in.jsonl")
    with workers.calls(files_create=0):
        workers.step(job_id)
    assert "the file is larger than" in workers.job(job_id).message


@pytest.mark.parametrize("lost", [True, False], ids=["arrived", "never arrived"])
def test_a_lost_reply_does_not_upload_twice(workers: Workers, file: Path, lost: bool) -> None:
    job_id = workers.upload(str(file))
    before = len(workers.uploads())
    workers.emulator.outage(answer="drop", after_acting=lost, operations=["files.create"], count=1)
    workers.step(job_id)
    assert workers.job(job_id).state in LIVE
    workers.end_backoff()
    with workers.calls(files_list=1, files_create=0 if lost else 1):
        workers.step(job_id)
    [sent] = workers.uploads()[before:]
    assert workers.job(job_id).result == {"file_id": sent["id"]}


def test_a_file_whose_job_was_cancelled_meanwhile_is_deleted(workers: Workers, file: Path) -> None:
    job_id = workers.upload(str(file))
    before = len(workers.uploads())
    workers.emulator.outage(answer="normal", operations=["files.create"], delay_s=0.5, count=1)
    worker = threading.Thread(target=workers.step, args=(job_id,))
    worker.start()
    until(lambda: len(workers.uploads()) > before, "the file", every_s=0.01)
    # OpenAI has the file and has not answered yet.
    assert workers.request_cancel(job_id) is records.CancelResult.CANCELLED
    with workers.calls(files_delete=1):
        worker.join()
    assert len(workers.uploads()) == before
    assert workers.job(job_id).state is JobState.CANCELLED
