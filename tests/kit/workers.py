"""Workers whose steps a test runs by hand: real Redis and emulator, and a queue that records."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai
from batchflow_workers.polling import poll, sweep
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps import cancel, download, submit, upload
from batchflow_workers.steps.runner import StepFunction, run_step

from batchflow.jobs import BatchSpec, Credential, DownloadSpec, Job, JobRequest, UploadSpec
from batchflow.openai_client.client import OpenAIApi
from batchflow.queue import Sender, Step
from batchflow.settings import Settings
from batchflow.states import JobKind, Phase
from batchflow.store import JobStore, keys, records
from batchflow.store.command import Command
from tests.kit.emulator import Emulator
from tests.kit.job_requests import a_job_request
from tests.kit.processes import until

#: The API key of credentials that name none.
KEY = "sk-test-key-of-the-workers"
#: The API key of credentials whose group or key is "other".
OTHER_KEY = "sk-test-another-key"
LINE = (
    b'{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", "body": '
    b'{"model": "gpt-test", "messages": [{"role": "user", "content": "Hello"}]}}\n'
)

#: The step that advances a job of a kind, and its name as a source.
STEPS: dict[JobKind, tuple[str, StepFunction]] = {
    JobKind.UPLOAD: (upload.SOURCE, upload.upload),
    JobKind.BATCH: (submit.SOURCE, submit.submit),
    JobKind.DOWNLOAD: (download.SOURCE, download.download),
}


def lines(count: int = 3) -> bytes:
    """A batch file."""
    return b"".join(LINE % number for number in range(count))


def wait_in_queue(store: JobStore, queue: str, job_id: str) -> None:
    """Put a job into a quota queue without changing its record."""
    job = store.run(records.get(job_id))
    assert job is not None
    created_at = job.created_at.timestamp()
    store.run(Command("ZADD", [keys.waiting(queue)], [created_at, job_id], bool))
    store.run(Command("SADD", [keys.LINES], [queue], bool))


class RecordingSender(Sender):
    """A queue that records messages instead of sending them."""

    def __init__(self) -> None:
        self.sent: list[tuple[Step, Any]] = []

    def send(self, step: Step, *args: Any, expires_s: float | None = None) -> None:
        self.sent.append((step, args[0] if args else None))


def scripted_runtime(
    settings: Settings,
    store: JobStore,
    sender: Sender,
    answer: Callable[[httpx2.Request], httpx2.Response],
) -> Runtime:
    """A runtime whose OpenAI is a function."""

    class Scripted(Runtime):
        def openai(self, credential: Credential) -> OpenAIApi:
            http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(answer))
            base_url = "http://openai.test/v1"
            return OpenAIApi(
                openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0, http_client=http)
            )

    return Scripted(settings, store, sender)


@dataclass
class Workers:
    """Jobs and their steps, for an OpenAI organization of the test's own."""

    runtime: Runtime
    emulator: Emulator
    organization: str
    sender: RecordingSender = field(default_factory=RecordingSender)

    @property
    def store(self) -> JobStore:
        return self.runtime.store

    def answered_by(self, answer: Callable[[httpx2.Request], httpx2.Response]) -> "Workers":
        """The same workers with a function in place of the emulator."""
        settings = self.runtime.settings
        return replace(self, runtime=scripted_runtime(settings, self.store, self.sender, answer))

    # Jobs

    def credential(self, **parts: str) -> Credential:
        return Credential(organization=self.organization, **parts)

    def created(self, job_request: JobRequest) -> str:
        """A job that waits for its first step."""
        self.store.run(records.create(job_request, due_in_s=0))
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
        return self.created(a_job_request(spec=spec))

    def submitted(self, **batch: Any) -> str:
        """A job whose batch was created."""
        job_id = self.batch(**batch)
        self.step(job_id)
        assert self.job(job_id).batch_id
        return job_id

    def upload(self, uri: str) -> str:
        return self.created(a_job_request(spec=UploadSpec(credential=self.credential(), uri=uri)))

    def download(self, destination: str, **files: Any) -> str:
        spec = DownloadSpec(credential=self.credential(), destination=destination, **files)
        return self.created(a_job_request(spec=spec))

    def job(self, job_id: str) -> Job:
        job = self.store.run(records.get(job_id))
        assert job is not None
        return job

    def phase(self, job_id: str) -> Phase:
        """The phase that Flyte receives."""
        return self.job(job_id).phase

    def due_in_s(self, job_id: str) -> float:
        score: Any = self.store.redis.zscore(self.redis_key(keys.DUE), job_id)
        return float(score) - self.store.run(records.time())

    # Steps

    def step(self, *job_ids: str) -> None:
        """Run the step that advances a job of its kind."""
        for job_id in job_ids:
            source, step = STEPS[self.job(job_id).kind]
            run_step(self.runtime, source, job_id, step)

    def request_cancel(self, job_id: str) -> records.CancelResult | None:
        """Do what the connector does when Flyte deletes the task."""
        return self.store.run(
            records.cancel(job_id, message="Cancelled by Flyte.", source="delete")
        )

    def cancel(self, job_id: str) -> None:
        run_step(self.runtime, cancel.SOURCE, job_id, cancel.cancel)

    def poll_until(self, job_id: str, condition: Callable[[Job], bool]) -> Job:
        """Poll a job's batch until a condition holds; returns the job."""

        def holds_after_poll() -> bool:
            self.poll(job_id)
            return condition(self.job(job_id))

        until(holds_after_poll, f"the job {job_id}")
        return self.job(job_id)

    def poll_until_terminal(self, job_id: str) -> Job:
        return self.poll_until(job_id, lambda job: job.terminal)

    def poll(self, *job_ids: str) -> None:
        poll.poll(self.runtime, list(job_ids))

    def sweep(self) -> list[tuple[Step, Any]]:
        """Sweep, and return the messages that it sent."""
        self.sender.sent.clear()
        sweep.sweep(self.runtime)
        return list(self.sender.sent)

    def work(self) -> None:
        """Sweep, and run the steps that it enqueued."""
        for step, argument in self.sweep():
            match step:
                case Step.POLL:
                    self.poll(*argument)
                case Step.CANCEL:
                    self.cancel(argument)
                case _:
                    self.step(argument)

    def work_until(self, condition: Callable[[], object], what: str) -> None:
        """Sweep and run steps until a condition holds."""

        def holds_after_work() -> object:
            self.work()
            return condition()

        until(holds_after_work, what, every_s=0.02)

    # Redis

    def change(self, job_id: str, **fields: Any) -> None:
        """Write fields of a record without any checks."""
        redis: Any = self.store.redis
        values = {str(name): str(value) for name, value in fields.items()}
        redis.hset(self.redis_key(keys.job(job_id)), mapping=values)

    def settle(self, job_id: str) -> None:
        """Let OpenAI's lists show what the last try of a job created."""
        self.change(job_id, settled_at=0)

    def make_due(self, job_id: str) -> None:
        self.runtime.update(job_id, "test", due_in_s=-1)

    def end_backoff(self) -> None:
        """End the backoff of every credential."""
        redis = self.store.redis
        for key in list(redis.scan_iter(self.redis_key(keys.backoff("*")))):
            redis.hset(key, "until", "0")

    def empty_redis(self) -> None:
        redis = self.store.redis
        for key in list(redis.scan_iter(self.redis_key("*"))):
            redis.delete(key)

    def redis_key(self, name: str) -> str:
        """The key under its name in Redis."""
        return keys.full(self.runtime.settings.key_prefix, name)

    # OpenAI

    def add_foreign_batch(self) -> None:
        """Create a batch that belongs to no job."""
        with self.emulator.sdk(self.organization) as sdk:
            sdk.batches.create(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=self.emulator.upload(self.organization, lines(1)),
            )

    def batches(self) -> list[dict[str, Any]]:
        """The batches that jobs created, oldest first."""
        created = self.emulator.batches(self.organization)
        return [batch for batch in created if "batchflow_job" in (batch["metadata"] or {})]

    def batches_of(self, job_id: str) -> list[dict[str, Any]]:
        """The batches that a job created, oldest first."""
        return [b for b in self.batches() if b["metadata"]["batchflow_job"] == job_id]

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


MakeWorkers = Callable[..., Workers]
