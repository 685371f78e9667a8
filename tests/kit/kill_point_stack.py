"""Jobs before a step whose worker is killed, and checks of how they ended."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from batchflow.jobs import (
    BatchSpec,
    Credential,
    DownloadSpec,
    Job,
    JobRequest,
    Spec,
    UploadSpec,
    random_job_id,
)
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import JobStore, connect, keys, records
from batchflow.store.command import Command
from tests.kit.emulator import Emulator, EmulatorServer
from tests.kit.flyte_tasks import custom_ids, jsonl, put, request_line, requests
from tests.kit.killing_worker import KillingWorker
from tests.kit.processes import BIN, Process, clean_environment, until
from tests.kit.stack import KEY_VARIABLES

#: Long enough for one step, so that nothing depends on the clock.
LEASE_S = 2.0
SETTLE_S = 0.5
POLL_S = 0.5
#: A batch takes this long at the emulator, at most.
BATCH_S = 1.5
EMULATOR_OPTIONS = {
    "validating-s": 0.2,
    "in-progress-s": 0.5,
    "per-request-s": 0,
    "finalizing-s": 0.2,
    "cancelling-s": 0.2,
}
API_KEY = "sk-kill-points"
#: The time in which healthy workers must finish all jobs.
ALL_END_S = 120.0


class KillPointStack:
    """Redis, the emulator, and the process whose children are killed."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        self.prefix = f"kill-{uuid.uuid4().hex[:8]}"
        emulator = EmulatorServer(folder, EMULATOR_OPTIONS, clean_environment())
        self.processes: list[Process] = [emulator]
        emulator.start()
        emulator.await_ready()
        base_url = emulator.base_url
        self.emulator = Emulator(base_url, API_KEY)
        self.http = httpx2.Client(base_url=base_url, timeout=15)
        self.env = {
            **clean_environment(),
            **dict.fromkeys(KEY_VARIABLES, API_KEY),
            "OPENAI_BASE_URL": base_url,
            "BATCHFLOW_REDIS_URL": redis_url,
            "BATCHFLOW_KEY_PREFIX": self.prefix,
            "BATCHFLOW_ALLOWED_URIS": f"{self.blobs}/",
            "BATCHFLOW_LEASE_S": str(LEASE_S),
            "BATCHFLOW_SETTLE_S": str(SETTLE_S),
            "BATCHFLOW_POLL_INTERVAL_S": str(POLL_S),
            "BATCHFLOW_SWEEP_INTERVAL_S": "0.3",
            "BATCHFLOW_OPENAI_TIMEOUT_S": "10",
            "PYTHONUNBUFFERED": "1",
        }
        self.killing = KillingWorker(self.env, folder / "killing.log")
        self._redis_url = redis_url
        self._stores: dict[str, JobStore] = {}

    def stop(self) -> None:
        """End all processes."""
        self.killing.stop()
        for process in reversed(self.processes):
            process.kill()
        self.emulator.close()
        self.http.close()

    def start_healthy_workers(self) -> None:
        """Start Celery's worker and beat."""
        celery: list[str | Path] = [BIN / "celery", "-A", "batchflow_workers"]
        options = ["--concurrency", "4", "--loglevel", "INFO"]
        self.processes.append(self._process("worker", [*celery, "worker", *options], self.env))
        self.processes.append(self._process("beat", [*celery, "beat", "--pidfile", ""], self.env))
        for process in self.processes[1:]:
            process.start()

    def run(self, command: Command[Any], prefix: str = "") -> Any:
        """A command of the store."""
        return self._store(prefix or self.prefix).run(command)

    def run_all(self, many: list[Command[Any]]) -> list[Any]:
        """Many commands of the store."""
        return list(self._store(self.prefix).run_all(many))

    def job(self, job_id: str, prefix: str = "") -> Job:
        """A job's record."""
        job: Job | None = self.run(records.get(job_id), prefix)
        assert job is not None
        return job

    def end_lease(self, job_id: str, prefix: str) -> None:
        """End a job's lease at once, as it ends by itself some time after its worker died."""
        self.run(Command("DEL", [keys.lease(job_id)], [], bool), prefix)

    def _store(self, prefix: str) -> JobStore:
        if prefix not in self._stores:
            values = {"redis_url": self._redis_url, "key_prefix": prefix}
            self._stores[prefix] = connect(Settings.model_validate(values))
        return self._stores[prefix]

    def _process(self, name: str, command: list[str | Path], env: dict[str, str]) -> Process:
        return Process(name, command, env or clean_environment(), self.folder / f"{name}.log")

    # Jobs, files and batches before a step

    def job_request(self, spec: Spec, prefix: str = "", due_in_s: float = 0) -> str:
        """A new job."""
        job_request = JobRequest(job_id=random_job_id(), spec=spec)
        self.run(records.create(job_request, due_in_s=due_in_s), prefix)
        return job_request.job_id

    def upload(self, org: str, name: str = "given.jsonl", content: bytes = b"") -> str:
        """A file at OpenAI."""
        answer = self.http.post(
            "/files",
            headers=_headers(org),
            data={"purpose": "batch"},
            files={"file": (name, content or requests())},
        )
        return str(answer.raise_for_status().json()["id"])

    def make_batch(self, org: str, job_id: str, file_id: str) -> str:
        """A batch at OpenAI."""
        answer = self.http.post(
            "/batches",
            headers=_headers(org),
            json={
                "input_file_id": file_id,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"batchflow_job": job_id},
            },
        )
        return str(answer.raise_for_status().json()["id"])


def _headers(org: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {API_KEY}", "OpenAI-Organization": org}


@dataclass
class Case:
    """Jobs for one kill."""

    org: str = field(default_factory=lambda: f"org-{uuid.uuid4().hex}")
    ids: list[str] = field(default_factory=list)
    prefix: str = ""
    #: The exit status of the child that ran the step.
    status: int | None = None

    @property
    def credential(self) -> Credential:
        """A credential of its own, so that no other case interferes."""
        return Credential(organization=self.org)


# -- situations: the state before a step ----------------------------------------------------------


def a_batch_job(world: KillPointStack, case: Case, *, due_in_s: float = 0) -> str:
    """No step has run."""
    spec = BatchSpec(credential=case.credential, input_file_id=world.upload(case.org), config={})
    case.ids.append(world.job_request(spec, case.prefix, due_in_s))
    return case.ids[-1]


def a_lost_request(world: KillPointStack, case: Case) -> str:
    """A try has begun, and its request was lost."""
    job_id = a_batch_job(world, case)
    world.run(records.begin(job_id), case.prefix)
    return job_id


def a_lost_reply(world: KillPointStack, case: Case) -> str:
    """A try has created the batch, and the reply was lost."""
    job_id = a_lost_request(world, case)
    file_id = world.job(job_id, case.prefix).input_file_id
    assert file_id
    world.make_batch(case.org, job_id, file_id)
    return job_id


def a_submitted_job(world: KillPointStack, case: Case) -> str:
    """Its batch is at OpenAI, and recorded."""
    job_id = a_batch_job(world, case)
    status, _ = world.killing.step("submit", [job_id], prefix=case.prefix)
    assert status == 0
    return job_id


def two_submitted_jobs(world: KillPointStack, case: Case) -> None:
    """Two jobs of one credential."""
    for _ in range(2):
        a_submitted_job(world, case)


def to_be_cancelled(
    before: Callable[[KillPointStack, Case], str],
) -> Callable[[KillPointStack, Case], None]:
    """A job in that state, whose batch runs for hours and whose cancellation was requested."""

    def setup(world: KillPointStack, case: Case) -> None:
        world.emulator.configure(in_progress_s=3_600)
        job_id = before(world, case)
        world.emulator.heal()
        cancel = records.cancel(job_id, message="Cancelled.", source="delete")
        assert world.run(cancel) is records.CancelResult.REQUESTED

    return setup


def an_upload_job(world: KillPointStack, case: Case) -> str:
    """No step has run."""
    uri = put(world.blobs, requests(), f"{uuid.uuid4().hex}.jsonl")
    case.ids.append(world.job_request(UploadSpec(credential=case.credential, uri=uri), case.prefix))
    return case.ids[-1]


def a_lost_upload(world: KillPointStack, case: Case) -> str:
    """A try has begun, and its request was lost."""
    job_id = an_upload_job(world, case)
    world.run(records.begin(job_id), case.prefix)
    return job_id


def a_lost_upload_reply(world: KillPointStack, case: Case) -> None:
    """A try has sent the file, and the reply was lost."""
    job_id = a_lost_upload(world, case)
    world.upload(case.org, f"{job_id}.jsonl")


def a_download_job(world: KillPointStack, case: Case) -> None:
    """No step has run."""
    batch = _batch_with_both_files(world)
    case.org = batch["organization"]
    spec = DownloadSpec(
        credential=case.credential,
        output_file_id=batch["output_file_id"],
        error_file_id=batch["error_file_id"],
        destination=f"{world.blobs}/{uuid.uuid4().hex}/0",
    )
    case.ids.append(world.job_request(spec))


def _batch_with_both_files(world: KillPointStack) -> dict[str, Any]:
    org = "org-with-both-files"
    if not world.emulator.batches(org):
        lines = [request_line("good-0"), request_line("bad-0", temperature=3)]
        world.make_batch(org, "none", world.upload(org, content=jsonl(lines)))
    until(lambda: world.emulator.batches(org)[0]["status"] == "completed", "the batch's end")
    return world.emulator.batches(org)[0]


def jobs_for_the_sweep(world: KillPointStack, case: Case) -> None:
    """A job for each step that a sweep enqueues, in a namespace of their own."""
    case.prefix = f"{world.prefix}-{uuid.uuid4().hex[:8]}"
    a_submitted_job(world, case)
    a_batch_job(world, case, due_in_s=0)
    world.emulator.configure(in_progress_s=3_600)
    unwanted = a_lost_reply(world, case)
    world.emulator.heal()
    cancel = records.cancel(unwanted, message="Cancelled.", source="delete")
    assert world.run(cancel, case.prefix) is records.CancelResult.REQUESTED


# -- checks after all jobs have ended -------------------------------------------------------------


def has_one_batch(world: KillPointStack, case: Case) -> None:
    """Each job has one batch, which ended well."""
    for job_id in case.ids:
        job = world.job(job_id, case.prefix)
        assert job.state is JobState.SUCCEEDED, job
        [batch] = _batches_of(world, case, job_id)
        assert batch["id"] == job.batch_id
        assert job.result
        assert job.result["output_file_id"] == batch["output_file_id"]


def is_cancelled(world: KillPointStack, case: Case) -> None:
    """The job and its batch are cancelled."""
    [job_id] = case.ids
    job = world.job(job_id)
    assert job.state is JobState.CANCELLED, job
    assert [batch["status"] for batch in _batches_of(world, case, job_id)] == ["cancelled"]


def has_no_batch(world: KillPointStack, case: Case) -> None:
    """The job was cancelled before it had a batch."""
    [job_id] = case.ids
    assert world.job(job_id).state is JobState.CANCELLED
    assert _batches_of(world, case, job_id) == []


def has_one_file(world: KillPointStack, case: Case) -> None:
    """The file is at OpenAI, once."""
    [job_id] = case.ids
    job = world.job(job_id, case.prefix)
    assert job.state is JobState.SUCCEEDED, job
    [file] = world.emulator.uploads(case.org)
    assert file["filename"] == f"{job_id}.jsonl"
    assert job.result == {"file_id": file["id"]}


def has_all_lines(world: KillPointStack, case: Case) -> None:
    """Both files are complete at the destination, and no other file is there."""
    [job_id] = case.ids
    job = world.job(job_id)
    assert job.state is JobState.SUCCEEDED, job
    assert job.result
    assert custom_ids(job.result["output_file"]) == ["good-0"]
    assert custom_ids(job.result["error_file"]) == ["bad-0"]
    there = {str(path) for path in Path(job.result["output_file"]).parent.iterdir()}
    assert there == set(job.result.values())


def have_all_ended(world: KillPointStack, case: Case) -> None:
    """Each job has ended as it should."""
    *good, unwanted = case.ids
    has_one_batch(world, Case(case.org, good, case.prefix))
    assert world.job(unwanted, case.prefix).state is JobState.CANCELLED
    assert [b["status"] for b in _batches_of(world, case, unwanted)] == ["cancelled"]


def _batches_of(world: KillPointStack, case: Case, job_id: str) -> list[dict[str, Any]]:
    found = world.emulator.batches(case.org)
    return [batch for batch in found if batch["metadata"]["batchflow_job"] == job_id]
