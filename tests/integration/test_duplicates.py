"""Second batches and files of jobs, whoever sees them: cancelled or deleted, and reported."""

import threading
from pathlib import Path

import pytest

from batchflow.jobs import generation_id, random_job_id
from batchflow.states import JobState
from batchflow.store import metrics, records
from tests.kit.job_requests import a_job_request
from tests.kit.processes import until
from tests.kit.workers import Workers, lines


@pytest.fixture
def file_id(workers: Workers) -> str:
    return workers.emulator.upload(workers.organization, lines())


def second_batch(workers: Workers, job_id: str, file_id: str) -> str:
    """A batch of a job that takes effect behind the back of the workers; returns its id."""
    with workers.emulator.sdk(workers.organization) as sdk:
        batch = sdk.batches.create(
            completion_window="24h",
            endpoint="/v1/chat/completions",
            input_file_id=file_id,
            metadata={"batchflow_job": job_id},
        )
    return batch.id


def second_file(workers: Workers, job_id: str) -> str:
    with workers.emulator.sdk(workers.organization) as sdk:
        return sdk.files.create(file=(f"{job_id}.jsonl", lines()), purpose="batch").id


def statuses(workers: Workers) -> dict[str, str]:
    """The status of each batch that names a job."""
    return {batch["id"]: batch["status"] for batch in workers.batches()}


def lines_about(workers: Workers, job_id: str, openai_id: str) -> list[str]:
    """The lines of a job's history that end with an id."""
    history = workers.job(job_id).history.splitlines()
    return [line.split("\t")[-1] for line in history if line.endswith(openai_id)]


def counted(workers: Workers, *counter: str) -> float:
    return workers.store.run(metrics.counters()).get(counter, 0)


def cancelled(batch_id: str) -> list[str]:
    return [f"Cancelled a second batch of this job at OpenAI: {batch_id}"]


def test_the_worker_that_made_a_second_batch_cancels_it(workers: Workers, file_id: str) -> None:
    job_id = workers.batch(file_id)
    workers.emulator.outage(answer="normal", operations=["batches.create"], delay_s=1, count=1)
    worker = threading.Thread(target=workers.step, args=(job_id,))
    worker.start()
    until(lambda: len(workers.batches()) == 1, "the batch", every_s=0.01)
    # Another worker has created one meanwhile: this one was paused for longer than its lease.
    workers.runtime.update(job_id, "submit", {"batch_id": "batch_first"})
    worker.join()
    [(second, status)] = statuses(workers).items()
    assert (status, workers.job(job_id).batch_id) == ("cancelled", "batch_first")
    assert lines_about(workers, job_id, second) == cancelled(second)
    assert counted(workers, "duplicate_batches", "submit") == 1


def test_the_worker_that_made_the_batch_of_a_job_that_ended_cancels_it(
    workers: Workers, file_id: str
) -> None:
    job_id = workers.batch(file_id)
    workers.emulator.outage(answer="normal", operations=["batches.create"], delay_s=1, count=1)
    worker = threading.Thread(target=workers.step, args=(job_id,))
    worker.start()
    until(lambda: len(workers.batches()) == 1, "the batch", every_s=0.01)
    workers.runtime.end(job_id, "submit", JobState.RETRYABLE, "Given up.")
    worker.join()
    [(batch_id, status)] = statuses(workers).items()
    assert status == "cancelled"
    assert lines_about(workers, job_id, batch_id) == cancelled(batch_id)


def test_a_search_cancels_a_second_batch(workers: Workers, file_id: str) -> None:
    job_id = workers.submitted(file_id=file_id)
    second = second_batch(workers, job_id, file_id)
    other = workers.batch(file_id)
    workers.change(other, tries=1, settled_at=0)
    workers.step(other)
    assert statuses(workers)[second] == "cancelled"
    assert statuses(workers)[str(workers.job(job_id).batch_id)] == "in_progress"
    assert lines_about(workers, job_id, second) == cancelled(second)
    assert counted(workers, "duplicate_batches", "submit") == 1


def test_a_search_takes_one_batch_of_a_job_and_cancels_the_other(
    workers: Workers, file_id: str
) -> None:
    job_id = workers.batch(file_id)
    both = [second_batch(workers, job_id, file_id) for _ in range(2)]
    workers.change(job_id, tries=1, settled_at=0)
    workers.step(job_id)
    taken = str(workers.job(job_id).batch_id)
    [second] = set(both) - {taken}
    assert statuses(workers) == {taken: "in_progress", second: "cancelled"}
    assert lines_about(workers, job_id, second) == cancelled(second)


@pytest.mark.parametrize("ended", [False, True], ids=["live", "ended"])
def test_a_poll_cancels_a_second_batch(workers: Workers, file_id: str, ended: bool) -> None:
    job_id, *others = (workers.submitted(file_id=file_id) for _ in range(3))
    if ended:
        workers.emulator.end(str(workers.job(job_id).batch_id))
        workers.poll(job_id)
    state = workers.job(job_id).state
    second = second_batch(workers, job_id, file_id)
    for _ in range(2):
        workers.poll(*others)
    assert statuses(workers)[second] == "cancelled"
    assert [statuses(workers)[str(workers.job(i).batch_id)] for i in others] == ["in_progress"] * 2
    assert lines_about(workers, job_id, second) == cancelled(second)
    assert workers.job(job_id).state is state
    assert counted(workers, "duplicate_batches", "poll") == 1


def test_a_poll_of_one_job_sees_the_late_effect_of_its_first_try(
    workers: Workers, file_id: str
) -> None:
    job_id = workers.batch(file_id)
    workers.emulator.outage(operations=["batches.create"], count=1)
    workers.step(job_id)
    workers.end_backoff()
    workers.step(job_id)
    late = second_batch(workers, job_id, file_id)
    with workers.calls(batches_list=1, batches_retrieve=0):
        workers.poll(job_id)
    assert statuses(workers)[late] == "cancelled"
    assert lines_about(workers, job_id, late) == cancelled(late)


def test_a_second_batch_that_could_not_be_cancelled_is_cancelled_later(
    workers: Workers, file_id: str
) -> None:
    jobs = [workers.submitted(file_id=file_id) for _ in range(2)]
    second = second_batch(workers, jobs[0], file_id)
    workers.emulator.outage(operations=["batches.cancel"], count=1)
    workers.poll(*jobs)
    assert statuses(workers)[second] == "in_progress"
    assert not lines_about(workers, jobs[0], second)
    workers.poll(*jobs)
    assert statuses(workers)[second] == "cancelled"
    assert lines_about(workers, jobs[0], second) == cancelled(second)


def test_a_batch_that_may_be_of_use_is_left_alone(workers: Workers, file_id: str) -> None:
    of_another_installation = second_batch(workers, random_job_id(), file_id)
    waiting = workers.batch(file_id)
    of_a_job_that_searches = second_batch(workers, waiting, file_id)
    # A later attempt has taken the batch of the first generation.
    first = workers.batch(file_id)
    workers.runtime.end(first, "submit", JobState.RETRYABLE, "Given up.")
    taken = second_batch(workers, first, file_id)
    spec = workers.job(first).spec
    later = workers.created(a_job_request(job_id=generation_id(first, 2), spec=spec))
    workers.change(later, tries=1, settled_at=0)
    workers.step(later)
    assert workers.job(later).batch_id == taken
    workers.poll(workers.submitted(file_id=file_id), workers.submitted(file_id=file_id))
    for batch_id in (of_another_installation, of_a_job_that_searches, taken):
        assert statuses(workers)[batch_id] == "in_progress"


# Files


@pytest.fixture
def uri(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines())
    return str(path)


def names(workers: Workers) -> list[str]:
    return [file["filename"] for file in workers.uploads()]


def test_a_search_deletes_a_second_file(workers: Workers, uri: str) -> None:
    job_id, other = workers.upload(uri), workers.upload(uri)
    workers.step(job_id)
    second = second_file(workers, job_id)
    workers.change(other, tries=1, settled_at=0)
    workers.step(other)
    assert names(workers).count(f"{job_id}.jsonl") == 1
    assert workers.job(job_id).input_file_id in [file["id"] for file in workers.uploads()]
    note = f"Deleted a file at OpenAI that this job does not use: {second}"
    assert lines_about(workers, job_id, second) == [note]
    assert counted(workers, "unused_files", "upload") == 1


def test_a_file_that_flyte_may_have_is_not_deleted(workers: Workers, uri: str) -> None:
    """Redis went back in time to before the first upload."""
    job_id, other = workers.upload(uri), workers.upload(uri)
    second_file(workers, job_id)
    now_s = workers.store.run(records.time())
    until(lambda: workers.store.run(records.time()) > int(now_s) + 1, "another second")
    workers.step(job_id)
    workers.change(other, tries=1, settled_at=0)
    workers.step(other)
    assert names(workers).count(f"{job_id}.jsonl") == 2


def test_the_worker_that_uploaded_a_file_keeps_it_if_a_search_found_it_first(
    workers: Workers, uri: str
) -> None:
    job_id = workers.upload(uri)
    workers.emulator.outage(answer="normal", operations=["files.create"], delay_s=1, count=1)
    worker = threading.Thread(target=workers.step, args=(job_id,))
    worker.start()
    until(lambda: names(workers) == [f"{job_id}.jsonl"], "the file", every_s=0.01)
    other = workers.upload(uri)
    workers.change(other, tries=1, settled_at=0)
    workers.step(other)
    worker.join()
    job = workers.job(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.input_file_id in [file["id"] for file in workers.uploads()]
