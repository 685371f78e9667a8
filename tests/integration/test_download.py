"""The download step."""

import json
from pathlib import Path
from typing import Any

import pytest
from batchflow_workers.policy import Policy

from batchflow.states import JobState
from tests.kit.workers import Workers, lines

MAX_FAILURES = Policy().max_failures
WAITING = "Waiting to call OpenAI again. "


@pytest.fixture
def finished(workers: Workers) -> dict[str, str]:
    """The files of a batch with failed requests."""
    bad = LINE_WITHOUT_MESSAGES + lines(2)
    job_id = workers.submitted(file_id=workers.emulator.upload(workers.organization, bad))
    workers.emulator.end(str(workers.job(job_id).batch_id))
    workers.poll(job_id)
    job = workers.job(job_id)
    assert job.output_file_id
    assert job.error_file_id
    return {"output_file_id": job.output_file_id, "error_file_id": job.error_file_id}


LINE_WITHOUT_MESSAGES = (
    b'{"custom_id": "bad", "method": "POST", "url": "/v1/chat/completions", '
    b'"body": {"model": "gpt-test"}}\n'
)


@pytest.mark.parametrize("names", [["output", "error"], ["output"], ["error"], []], ids="+".join)
def test_download_fetches_the_files_that_the_batch_has(
    workers: Workers, finished: dict[str, str], tmp_path: Path, names: list[str]
) -> None:
    files = {f"{name}_file_id": finished[f"{name}_file_id"] for name in names}
    job_id = workers.download(f"{tmp_path}/out/", **files)
    workers.step(job_id)
    job = workers.job(job_id)
    paths = {name: tmp_path / "out" / f"{name}_file.jsonl" for name in ("output", "error")}
    assert job.state is JobState.SUCCEEDED
    assert job.result == {
        f"{name}_file": str(path) if name in names else None for name, path in paths.items()
    }
    there = {name: path.read_text() for name, path in paths.items() if path.exists()}
    assert set(there) == set(names)
    ids = {
        name: {json.loads(line)["custom_id"] for line in text.splitlines()}
        for name, text in there.items()
    }
    assert ids == {name: {"output": {"0", "1"}, "error": {"bad"}}[name] for name in names}
    assert job.bytes_done == job.bytes_total == sum(len(text) for text in there.values())


@pytest.mark.parametrize("answer", ["cut", "drop", "status"])
def test_a_broken_stream_leaves_no_file_and_is_retried(
    workers: Workers, finished: dict[str, str], tmp_path: Path, answer: str
) -> None:
    job_id = workers.download(str(tmp_path), **finished)
    workers.emulator.outage(answer=answer, operations=["files.content"], count=1)
    workers.step(job_id)
    assert not list(tmp_path.iterdir())
    job = workers.job(job_id)
    assert (job.state, job.failures) == (JobState.RUNNING, 0)
    assert job.message.startswith(WAITING)
    workers.end_backoff()
    workers.step(job_id)
    assert {path.name for path in tmp_path.iterdir()} == {"output_file.jsonl", "error_file.jsonl"}
    assert workers.job(job_id).state is JobState.SUCCEEDED


def test_a_repeated_download_replaces_the_file(
    workers: Workers, finished: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "output_file.jsonl"
    target.write_text("old")
    workers.step(workers.download(str(tmp_path), output_file_id=finished["output_file_id"]))
    assert len(target.read_text().splitlines()) == 2


def test_a_download_to_remote_storage(
    remote: tuple[Workers, str, Any], finished: dict[str, str]
) -> None:
    workers, uri, bucket = remote
    workers.step(workers.download(f"{uri}/out", **finished))
    there = {path.rpartition("/")[2]: bucket.cat(path) for path in bucket.ls(f"{uri}/out", False)}
    assert set(there) == {"output_file.jsonl", "error_file.jsonl"}
    assert len(there["output_file.jsonl"].splitlines()) == 2


def test_a_download_deletes_what_a_killed_one_left(
    workers: Workers, finished: dict[str, str], tmp_path: Path
) -> None:
    job_id = workers.download(str(tmp_path), output_file_id=finished["output_file_id"])
    (tmp_path / f".batchflow-{job_id}-abc").write_text("half a")
    others = tmp_path / ".batchflow-bf-another-abc"
    others.write_text("half a")
    workers.step(job_id)
    assert set(tmp_path.iterdir()) == {tmp_path / "output_file.jsonl", others}


def test_a_folder_that_cannot_be_written_is_retried(
    workers: Workers, finished: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("not a folder")
    job_id = workers.download(f"{tmp_path}/out", output_file_id=finished["output_file_id"])
    workers.step(job_id)
    where = f"{tmp_path}/out/output_file.jsonl"
    assert workers.job(job_id).message == (
        f"Can't write {where} (FileExistsError). (try 1 of {MAX_FAILURES})"
    )


def test_a_file_that_openai_no_longer_has_fails(workers: Workers, tmp_path: Path) -> None:
    job_id = workers.download(str(tmp_path), output_file_id="file-expired")
    workers.step(job_id)
    job = workers.job(job_id)
    assert job.state is JobState.FAILED
    assert "file-expired" in job.message
