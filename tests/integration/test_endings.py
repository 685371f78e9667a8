"""How batches end: with late file ids, with errors only, or with a part of the results."""

import json
from pathlib import Path
from typing import Any

import pytest
from batchflow_connector.connectors import BatchEndpointConnector
from batchflow_connector.resources import resource_of
from batchflow_workers.observation import Observation
from batchflow_workers.reconcile import reconcile
from flytekit.configuration import SerializationSettings
from openai.types import Batch

from batchflow import BatchEndpointTask
from batchflow.job_requests.specs import batch_spec, download_spec
from batchflow.jobs import Job
from batchflow.openai_client.client import connect_openai
from batchflow.states import JobState, Phase
from batchflow.store import records
from tests.kit.job_requests import a_job_request
from tests.kit.workers import Workers, lines

COUNT = 8
ALL = [str(number) for number in range(COUNT)]
WAITING = "; waiting for OpenAI to show its files"


def custom(**options: Any) -> dict[str, Any]:
    """What Flyte passes on of a task."""
    task = BatchEndpointTask(name="batch", config={}, **options)
    custom = task.get_custom(SerializationSettings(image_config=None))
    # It travels as a protobuf Struct.
    passed: dict[str, Any] = json.loads(json.dumps(custom))
    return passed


def in_progress(workers: Workers, **options: Any) -> str:
    """A job whose batch is in progress, of a task with these options."""
    file_id = workers.emulator.upload(workers.organization, lines(COUNT))
    given = custom(openai_organization=workers.organization, **options)
    job_id = workers.created(a_job_request(spec=batch_spec(given, file_id)))
    workers.step(job_id)

    def seen() -> bool:
        return workers.job(job_id).openai_status == "in_progress"

    workers.work_until(seen, "a batch in progress")
    return job_id


def ended(workers: Workers, job_id: str, status: str, **options: Any) -> Job:
    """The job after its batch has ended with a status."""
    workers.emulator.end(str(workers.job(job_id).batch_id), status, **options)
    workers.work_until(lambda: workers.job(job_id).terminal, "the end of the job")
    return workers.job(job_id)


def downloaded(workers: Workers, result: Any, folder: Path) -> dict[str, list[str] | None]:
    """Download the results of a batch; returns the custom_ids in each file."""
    given = custom(openai_organization=workers.organization)
    job_id = workers.created(a_job_request(spec=download_spec(given, result, f"{folder}/out")))
    workers.step(job_id)
    job = workers.job(job_id)
    assert job.succeeded, job.message
    assert job.result is not None
    return {
        name: None if uri is None else ids_in(Path(uri), name == "output_file")
        for name, uri in job.result.items()
    }


def ids_in(path: Path, answered: bool) -> list[str]:
    """The custom_ids of a result file, each with an answer or an error."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in found:
        response = line["response"]
        assert (response is not None and response["status_code"] == 200) is answered
    return sorted(line["custom_id"] for line in found)


def shown(workers: Workers, job: Job, **options: Any) -> Any:
    """The resource that Flyte receives."""
    [standing] = workers.store.run(records.job_statuses([job.id]))
    assert standing is not None
    return resource_of(job.id, standing, BatchEndpointConnector().outputs, **options)


def details(workers: Workers, job: Job) -> dict[str, Any]:
    """What Flyte's console shows."""
    info: dict[str, Any] = shown(workers, job).custom_info
    return info


# Completed


def test_completed(workers: Workers, tmp_path: Path) -> None:
    job = ended(workers, in_progress(workers), "completed")
    assert (job.total, job.completed, job.failed) == (COUNT, COUNT, 0)
    assert downloaded(workers, job.result, tmp_path) == {"output_file": ALL, "error_file": None}


def test_completed_before_the_output_file_is_there(workers: Workers, tmp_path: Path) -> None:
    workers.emulator.configure(output_file_lag_s=1)
    job_id = in_progress(workers)
    workers.emulator.end(str(workers.job(job_id).batch_id))
    workers.poll(job_id)
    job = workers.job(job_id)
    assert (job.state, job.openai_status) == (JobState.RUNNING, "completed")
    assert (job.message, job.output_file_id) == (f"The batch is completed{WAITING}", None)
    assert workers.phase(job_id) is Phase.RUNNING
    # It is polled again soon, however old it is.
    assert workers.due_in_s(job_id) <= workers.runtime.settings.poll_interval_s
    workers.work_until(lambda: workers.job(job_id).terminal, "the end of the job")
    job = workers.job(job_id)
    assert job.succeeded
    assert downloaded(workers, job.result, tmp_path) == {"output_file": ALL, "error_file": None}


def test_every_request_failed_and_there_is_only_an_error_file(
    workers: Workers, tmp_path: Path
) -> None:
    workers.emulator.configure(request_failure_share=1)
    job = ended(workers, in_progress(workers), "completed")
    assert job.succeeded
    assert (job.completed, job.failed, job.output_file_id) == (0, COUNT, None)
    assert downloaded(workers, job.result, tmp_path) == {"output_file": None, "error_file": ALL}


def test_some_requests_failed(workers: Workers, tmp_path: Path) -> None:
    workers.emulator.configure(request_failure_share=0.5, output_file_lag_s=0.5)
    job = ended(workers, in_progress(workers), "completed")
    assert 0 < job.completed < COUNT
    files = downloaded(workers, job.result, tmp_path)
    assert files["output_file"] is not None
    assert files["error_file"] is not None
    assert len(files["output_file"]) == job.completed
    assert sorted(files["output_file"] + files["error_file"]) == ALL


# A part of the work


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("expired", "The batch expired at OpenAI before it was finished; "),
        ("cancelled", "The batch was cancelled at OpenAI; "),
    ],
)
def test_a_part_was_done(workers: Workers, tmp_path: Path, status: str, message: str) -> None:
    job = ended(workers, in_progress(workers), status, done_share=0.25)
    assert job.state is JobState.FAILED
    kept = f"output file {job.output_file_id}, error file {job.error_file_id}"
    done = f"2 of {COUNT} requests were completed. OpenAI keeps the results: {kept}."
    assert job.message == message + done
    info = details(workers, job)
    assert info["message"] == job.message
    assert (info["output_file_id"], info["error_file_id"]) == (
        job.output_file_id,
        job.error_file_id,
    )
    assert info["request_counts"]["completed"] == 2
    # The download task accepts custom_info as its input.
    files = downloaded(workers, info, tmp_path)
    assert files["output_file"] is not None
    assert files["error_file"] is not None
    assert len(files["output_file"]) == 2
    assert sorted(files["output_file"] + files["error_file"]) == ALL


def test_a_part_was_done_before_flyte_cancelled_it(workers: Workers, tmp_path: Path) -> None:
    workers.emulator.configure(in_progress_s=1, cancelling_s=0.2)
    job_id = in_progress(workers)
    workers.work_until(lambda: workers.job(job_id).completed, "some requests that are done")
    workers.request_cancel(job_id)
    workers.work_until(lambda: workers.job(job_id).terminal, "the end of the job")
    job = workers.job(job_id)
    assert job.state is JobState.CANCELLED
    assert 0 < job.completed < COUNT
    done = f"Cancelled by Flyte. {job.completed} of {COUNT} requests were completed."
    assert job.message.startswith(f"{done} OpenAI keeps the results: output file ")
    files = downloaded(workers, details(workers, job), tmp_path)
    assert len(files["output_file"] or []) == job.completed


def test_nothing_was_done(workers: Workers) -> None:
    job = ended(workers, in_progress(workers), "expired", done_share=0)
    assert job.state is JobState.FAILED
    assert (
        f"0 of {COUNT} requests were completed. OpenAI keeps the results: error file "
        in job.message
    )
    assert "output_file_id" not in details(workers, job)


def test_accept_partial_is_off_by_default() -> None:
    assert custom() == {"openai_organization": None, "config": {}}
    assert custom(accept_partial=False) == custom()
    assert custom(accept_partial=True) == custom() | {"accept_partial": True}


def test_an_expired_batch_with_output_succeeds_if_a_part_is_accepted(
    workers: Workers, tmp_path: Path
) -> None:
    job_id = in_progress(workers, accept_partial=True)
    job = ended(workers, job_id, "expired", done_share=0.5)
    assert job.state is JobState.SUCCEEDED
    assert f"; 4 of {COUNT} requests were completed. " in job.message
    assert job.result is not None
    assert job.result["status"] == "expired"
    files = downloaded(workers, job.result, tmp_path)
    assert len(files["output_file"] or []) == len(files["error_file"] or []) == COUNT / 2


@pytest.mark.parametrize(
    ("status", "done_share"), [("expired", 0), ("cancelled", 0.5), ("failed", None)]
)
def test_accepting_a_part_changes_no_other_ending(
    workers: Workers, status: str, done_share: float | None
) -> None:
    job_id = in_progress(workers, accept_partial=True)
    assert ended(workers, job_id, status, done_share=done_share).state is JobState.FAILED


# Late file ids of endings whose files the emulator shows at once


@pytest.mark.parametrize(
    ("status", "cancel", "state"),
    [
        ("completed", False, JobState.SUCCEEDED),
        ("expired", False, JobState.SUCCEEDED),
        ("cancelled", False, JobState.FAILED),
        ("cancelled", True, JobState.CANCELLED),
    ],
)
@pytest.mark.parametrize("late", ["output_file_id", "error_file_id"])
def test_a_job_waits_for_late_file_ids_however_its_batch_ends(
    workers: Workers, status: str, cancel: bool, state: JobState, late: str
) -> None:
    if status == "completed":
        workers.emulator.configure(request_failure_share=0.5)
    job_id = in_progress(workers, accept_partial=True)
    before = workers.job(job_id)
    if cancel:
        workers.request_cancel(job_id)
    workers.emulator.end(str(before.batch_id), status)
    shown = connect_openai(before.spec.credential, 5).retrieve_batch(str(before.batch_id))
    done = COUNT // 2
    counts = {"total": COUNT, "completed": done, "failed": COUNT - done}
    files = {"output_file_id": "file-out", "error_file_id": "file-err"}
    complete = Batch.model_validate(shown.to_dict() | {"request_counts": counts} | files)
    see(workers, job_id, complete.model_copy(update={late: None}))
    job = workers.job(job_id)
    assert job.state is JobState.RUNNING
    message = "Cancelled by Flyte." if cancel else f"The batch is {status}{WAITING}"
    assert job.message == message
    see(workers, job_id, complete)
    job = workers.job(job_id)
    assert job.state is state
    assert {name: getattr(job, name) for name in files} == files


def test_a_failed_batch_names_the_results_that_openai_keeps(workers: Workers) -> None:
    job_id = in_progress(workers)
    workers.emulator.end(str(workers.job(job_id).batch_id), "failed", code="server_error")
    job = workers.job(job_id)
    shown = connect_openai(job.spec.credential, 5).retrieve_batch(str(job.batch_id))
    see(workers, job_id, shown.model_copy(update={"output_file_id": "file-out"}))
    job = workers.job(job_id)
    assert job.state is JobState.FAILED
    assert job.message.endswith(" OpenAI keeps the results: output file file-out.")


def see(workers: Workers, job_id: str, batch: Batch) -> None:
    """Reconcile a job with an observation of its batch."""
    job = workers.store.run(records.get(job_id))
    assert job is not None
    reconcile(workers.runtime, [Observation(job, batch)], "poll")


def test_links_lead_to_the_page_of_the_job(workers: Workers) -> None:
    job = workers.job(workers.submitted())
    linked = shown(workers, job, public_url="https://batchflow.example.com")
    page = f"https://batchflow.example.com/jobs/{job.id}"
    assert linked.custom_info["page"] == page
    assert all(link.ShowWhilePending for link in linked.log_links)
    assert [(link.name, link.uri) for link in linked.log_links] == [
        ("Batchflow", page),
        ("OpenAI batch", f"https://platform.openai.com/batches/{job.batch_id}"),
    ]
    without = shown(workers, job)
    assert "page" not in without.custom_info
    assert [link.name for link in without.log_links] == ["OpenAI batch"]
