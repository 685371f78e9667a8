"""The workers' steps by hand: a real Redis, a real emulator, and a queue that only takes notes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from batchflow_workers.polling import poll, sweep
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps import cancel, download, submit, upload
from batchflow_workers.steps.runner import run_step

from batchflow.jobs import BatchSpec, Credential, DownloadSpec, Job, JobRequest, UploadSpec
from batchflow.queue import Sender, Step
from batchflow.states import JobKind
from batchflow.store import JobStore, keys, records
from batchflow.store.command import Command
from tests.kit.emulator import Emulator
from tests.kit.job_requests import a_job_request

LINE = (
    b'{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", "body": '
    b'{"model": "gpt-test", "messages": [{"role": "user", "content": "Hello"}]}}\n'
)


def lines(count: int = 3) -> bytes:
    """A batch file."""
    return b"".join(LINE % number for number in range(count))


def wait_in_queue(store: JobStore, queue: str, job_id: str) -> None:
    """Put a job into a quota queue and leave its record as it is."""
    job = store.run(records.get(job_id))
    assert job is not None
    created_at = job.created_at.timestamp()
    store.run(Command("ZADD", [keys.waiting(queue)], [created_at, job_id], bool))
    store.run(Command("SADD", [keys.LINES], [queue], bool))


class Notes(Sender):
    """A queue that only takes notes of what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Step, Any]] = []

    def send(self, step: Step, *args: Any, expires_s: float | None = None) -> None:
        self.sent.append((step, args[0] if args else None))


@dataclass
class Steps:
    """Jobs and their steps, for an organization of their own."""

    runtime: Runtime
    emulator: Emulator
    organization: str
    notes: Notes = field(default_factory=Notes)

    # Jobs

    def credential(self, **parts: str) -> Credential:
        return Credential(organization=self.organization, **parts)

    def placed(self, job_request: JobRequest) -> str:
        """A job that waits for its first step."""
        self.runtime.store.run(records.create(job_request, due_in_s=0))
        return job_request.job_id

    def batch(
        self,
        file_id: str = "",
        *,
        config: dict[str, Any] | None = None,
        credential: Credential | None = None,
    ) -> str:
        file_id = file_id or self.emulator.upload(self.organization, lines())
        spec = BatchSpec(
            credential=credential or self.credential(), input_file_id=file_id, config=config or {}
        )
        return self.placed(a_job_request(spec=spec))

    def submitted(self, **batch: Any) -> str:
        """A job whose batch is in progress."""
        job_id = self.batch(**batch)
        self.step(job_id)
        assert self.job(job_id).batch_id
        return job_id

    def upload(self, uri: str) -> str:
        return self.placed(a_job_request(spec=UploadSpec(credential=self.credential(), uri=uri)))

    def download(self, destination: str, **files: Any) -> str:
        spec = DownloadSpec(credential=self.credential(), destination=destination, **files)
        return self.placed(a_job_request(spec=spec))

    def job(self, job_id: str) -> Job:
        job = self.runtime.store.run(records.get(job_id))
        assert job is not None
        return job

    def due_in_s(self, job_id: str) -> float:
        score: Any = self.runtime.store.redis.zscore(self._full(keys.DUE), job_id)
        return float(score) - self.runtime.store.run(records.time())

    # Steps

    def step(self, *job_ids: str) -> None:
        """The step that does a job of its kind, as a worker takes it."""
        work: dict[JobKind, tuple[str, Callable[[Runtime, Job], None]]] = {
            JobKind.UPLOAD: (upload.SOURCE, upload.upload),
            JobKind.BATCH: (submit.SOURCE, submit.submit),
            JobKind.DOWNLOAD: (download.SOURCE, download.download),
        }
        for job_id in job_ids:
            source, do = work[self.job(job_id).kind]
            run_step(self.runtime, source, job_id, do)

    def ask_to_cancel(self, job_id: str) -> records.CancelResult | None:
        """What the connector does when Flyte deletes the task."""
        command = records.cancel(job_id, message="Cancelled by Flyte.", source="delete")
        return self.runtime.store.run(command)

    def cancel(self, job_id: str) -> None:
        run_step(self.runtime, cancel.SOURCE, job_id, cancel.cancel)

    def poll(self, *job_ids: str) -> None:
        poll.poll(self.runtime, list(job_ids))

    def sweep(self) -> list[tuple[Step, Any]]:
        """Returns what was sent."""
        self.notes.sent.clear()
        sweep.sweep(self.runtime)
        return list(self.notes.sent)

    def change(self, job_id: str, **fields: Any) -> None:
        """Write into a record past all rules."""
        record = {str(name): str(value) for name, value in fields.items()}
        redis: Any = self.runtime.store.redis
        redis.hset(self._full(keys.job(job_id)), mapping=record)

    def pass_time(self) -> None:
        """As if every credential's wait were over."""
        redis = self.runtime.store.redis
        for key in list(redis.scan_iter(self._full(keys.backoff("*")))):
            redis.hset(key, "until", "0")

    def _full(self, name: str) -> str:
        return f"{self.runtime.settings.key_prefix}:{name}"

    # OpenAI

    def batches(self) -> list[dict[str, Any]]:
        return self.emulator.batches(self.organization)

    def uploads(self) -> list[dict[str, Any]]:
        return self.emulator.uploads(self.organization)

    @contextmanager
    def calls(self, **expected: int) -> Iterator[None]:
        """Check how often operations are called in a block: ``batches_list=1``."""
        names = {name: name.replace("_", ".") for name in expected}
        before = {name: self.emulator.calls(operation) for name, operation in names.items()}
        yield
        made = {name: self.emulator.calls(names[name]) - before[name] for name in names}
        assert made == expected
