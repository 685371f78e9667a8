"""The metrics of a fleet of processes that work, fail, stop and are killed."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from batchflow.gateway.metrics import endpoint
from batchflow.jobs import BatchSpec, Credential, DownloadSpec, JobRequest, Spec, UploadSpec
from batchflow.overview.health import WORKER_SILENT_S
from batchflow.queue import Queue, Sender, Step, make_app, queue_name
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.states import JobKind, JobState
from batchflow.store import keys, records
from tests.kit.deliveries import SECRET, delivery, event
from tests.kit.emulator import Emulator, running_emulator
from tests.kit.exposition import OPENMETRICS, TEXT, Exposition, problems
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.job_requests import a_job_request
from tests.kit.monitoring import expressions
from tests.kit.processes import BIN, Process, clean_environment, until
from tests.kit.promql import selectors
from tests.kit.workers import lines

KEY = "sk-test-key-of-the-workers"
CREDENTIAL = Credential(organization="org-metrics")
MODEL = "gpt-test"

Seen = dict[str, Exposition]


@dataclass
class Life:
    """A fleet of processes, and its metrics over time."""

    gateway: Gateway
    emulator: Emulator
    folder: Path
    #: The metrics by moment.
    seen: Seen = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def look(self) -> Exposition:
        with self.gateway.client() as client:
            text = client.get("/metrics").text
        self.texts.append(text)
        return Exposition(text)

    def look_until(self, moment: str, condition: Callable[[Exposition], object]) -> Exposition:
        """Scrape until the condition holds, and keep the metrics."""

        def so() -> Exposition | None:
            found = self.look()
            return found if condition(found) else None

        found = until(so, f"/metrics: {moment}", every_s=0.1)
        assert found
        self.seen[moment] = found
        return found

    def place(self, spec: Spec, step: Step) -> JobRequest:
        job_request = a_job_request(spec=spec)
        self.gateway.store.run(records.create(job_request, due_in_s=0.3))
        sender = Sender(make_app(self.gateway.settings))
        sender.send(step, job_request.job_id)
        return job_request

    def place_batch(self, file_id: str) -> JobRequest:
        config = {"model": MODEL}
        spec = BatchSpec(credential=CREDENTIAL, input_file_id=file_id, config=config)
        return self.place(spec, Step.SUBMIT)

    def ended(self, job_request: JobRequest) -> bool:
        job = self.gateway.store.run(records.get(job_request.job_id))
        assert job
        assert job.state in (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED), job.message
        return job.succeeded

    def batch_of(self, job_request: JobRequest) -> str:
        def batch_id() -> str | None:
            job = self.gateway.store.run(records.get(job_request.job_id))
            return job.batch_id if job else None

        return str(until(batch_id, "the batch"))

    def pass_a_minute(self) -> None:
        """Make all heartbeats a minute older."""
        redis: Any = self.gateway.store.redis
        key = keys.full(self.gateway.settings.key_prefix, keys.WORKERS)
        for member in redis.zrange(key, 0, -1):
            redis.zincrby(key, -WORKER_SILENT_S, member)

    def process(self, name: str, *command: str) -> Process:
        settings = self.gateway.settings
        environment = {
            **clean_environment(),
            "BATCHFLOW_REDIS_URL": settings.require_redis_url(),
            "BATCHFLOW_KEY_PREFIX": settings.key_prefix,
            "BATCHFLOW_POLL_INTERVAL_S": "0.3",
            "BATCHFLOW_SWEEP_INTERVAL_S": "0.2",
            "BATCHFLOW_SETTLE_S": "0",
            "BATCHFLOW_ALLOWED_URIS": f"{self.folder}/",
            "OPENAI_BASE_URL": self.emulator.base_url,
            "_FSEC_FLYTE_OPENAI_API_KEY": KEY,
        }
        celery: list[str | Path] = [BIN / "celery", "-A", "batchflow_workers", *command]
        return Process(name, celery, environment, self.folder / f"{name}.log")

    def worker(self, name: str, *options: str) -> Process:
        return self.process(name, "worker", "--concurrency", "2", "-n", f"{name}@%h", *options)


@contextmanager
def started(*processes: Process) -> Iterator[None]:
    with ExitStack() as stack:
        for process in processes:
            process.start()
            stack.callback(process.stop)
        yield


def live_through(life: Life) -> None:
    """Situations that an operator may meet, one after the other."""
    waits_for_a_worker(life)
    lone = life.worker("lone", "-Q", queue_name(life.gateway.settings.key_prefix, Queue.FILES))
    worker, beat = life.worker("worker"), life.process("beat", "beat", "--pidfile", "")
    with started(lone, worker, beat):
        works(life)
        meets_rate_limits(life)
        waits_for_capacity(life)
        life.look_until("two workers", lambda m: m.value("workers", queue="files") == 2)
        worker.kill()
        life.seen["one killed"] = life.look()
        lone.stop()
        life.look_until("the other ended", lambda m: m.value("workers", queue="files") == 1)
        life.pass_a_minute()
        life.look_until("a minute later", lambda m: m.value("workers", queue="files") == 0)


def waits_for_a_worker(life: Life) -> None:
    life.look_until("nothing yet", lambda m: m.value("redis_up"))
    spec = UploadSpec(credential=CREDENTIAL, uri=str(life.folder / "in.jsonl"))
    (life.folder / "in.jsonl").write_bytes(lines())
    life.place(spec, Step.UPLOAD)
    life.place(spec, Step.UPLOAD)
    age = "queue_oldest_message_age_seconds"
    first = life.look_until("two messages", lambda m: m.value(age, queue="files"))
    known_s = first.value(age, queue="files") or 0
    life.look_until("older", lambda m: (m.value(age, queue="files") or 0) > known_s)


def works(life: Life) -> None:
    life.look_until("uploaded", lambda m: m.value("jobs", kind="upload", state="succeeded") == 2)
    file_id = life.emulator.upload(str(CREDENTIAL.organization), lines())
    batch = life.place_batch(file_id)
    batch_id = life.batch_of(batch)
    life.look_until("a batch runs", lambda m: m.value("oldest_live_job_age_seconds", kind="batch"))
    life.emulator.end(batch_id)
    until(lambda: life.ended(batch), "the batch")
    with life.gateway.client() as client:
        webhook = delivery(event(batch_id), at_s=time.time())
        assert client.post(
            "/webhooks/openai", content=webhook.body, headers=webhook.headers
        ).is_success
    job = life.gateway.store.run(records.get(batch.job_id))
    assert job
    download = life.place(
        DownloadSpec(
            credential=CREDENTIAL,
            output_file_id=job.output_file_id,
            destination=str(life.folder / "out"),
        ),
        Step.DOWNLOAD,
    )
    until(lambda: life.ended(download), "the download")
    life.look_until(
        "all done",
        lambda m: (
            m.value("webhook_deliveries_total", result="accepted")
            and m.value("openai_calls_total", operation="files.content", outcome="ok")
            and m.value("sweep_age_seconds") is not None
        ),
    )


def meets_rate_limits(life: Life) -> None:
    file_id = life.emulator.upload(str(CREDENTIAL.organization), lines())
    life.emulator.outage(status=429, retry_after_s=2)
    batch = life.place_batch(file_id)
    life.look_until(
        "rate limited",
        lambda m: (
            m.value("openai_waits_total", reason="rate_limited")
            and m.value("credential_backoff_seconds", credential=str(CREDENTIAL))
        ),
    )
    life.emulator.end_outages()
    life.emulator.end(life.batch_of(batch))
    until(lambda: life.ended(batch), "the batch")
    life.look_until("healed", lambda m: not m.total("credential_backoff_seconds"))


def waits_for_capacity(life: Life) -> None:
    file_id = life.emulator.upload(str(CREDENTIAL.organization), lines())
    life.emulator.next("failed", code="token_limit_exceeded")
    life.place_batch(file_id)
    life.look_until("over quota", lambda m: m.total("jobs_waiting_for_capacity"))


@pytest.fixture(scope="module")
def life(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    settings = Settings.model_validate(
        {"redis_url": redis_url, "key_prefix": f"metrics-{uuid4()}", "webhook_secrets": SECRET}
    )
    with running_emulator(KEY) as emulator, running_gateway(settings) as gateway:
        # An old store has every job.
        gateway.store.redis.set(keys.full(settings.key_prefix, keys.BORN), 0)
        life = Life(gateway, emulator, tmp_path_factory.mktemp("metrics"))
        live_through(life)
        yield life


@pytest.fixture(scope="module")
def seen(life: Life) -> Seen:
    """The metrics by moment."""
    return life.seen


def test_a_linter_finds_no_problem_at_any_moment(life: Life) -> None:
    assert len(life.texts) > 10
    assert [problem for text in life.texts for problem in problems(text)] == []


def test_every_metric_and_label_of_dashboard_and_alerts_was_exported(seen: Seen) -> None:
    missing = [
        (whose, selector)
        for whose, expression in expressions()
        for selector in selectors(expression)
        if not any(selector.fits(exposition) for exposition in seen.values())
    ]
    assert missing == []


def test_messages_in_a_queue_without_a_worker_grow_older(seen: Seen) -> None:
    for moment in ("two messages", "older"):
        assert seen[moment].value("workers", queue="files") == 0
    assert seen["older"].value("queue_messages", queue="files") == 2
    assert seen["older"].value("queue_messages", queue="submit") == 0
    taken = seen["all done"]
    assert taken.value("queue_messages", queue="files") == 0
    assert taken.value("queue_oldest_message_age_seconds", queue="files") is None


def test_jobs_and_their_transitions_are_counted(seen: Seen) -> None:
    done = seen["all done"]
    for kind, number in ((JobKind.UPLOAD, 2), (JobKind.BATCH, 1), (JobKind.DOWNLOAD, 1)):
        assert done.value("jobs", kind=kind.value, state="succeeded") == number
        assert done.total("job_transitions_total", kind=kind.value, to="succeeded") == number
        assert done.total("job_transitions_total", kind=kind.value, from_="new") == number
    assert seen["nothing yet"].total("job_transitions_total") == 0
    assert done.value("oldest_live_job_age_seconds", kind="batch") is None
    assert done.value("due_lag_seconds") == 0


def test_polls_and_sweeps_have_ages(seen: Seen) -> None:
    before, done = seen["nothing yet"], seen["all done"]
    for name in ("poll", "sweep", "webhook"):
        assert before.value(f"{name}_age_seconds") is None
        age_s = done.value(f"{name}_age_seconds")
        assert age_s is not None
        assert age_s < 30
    assert (done.value("sweep_duration_seconds_count") or 0) > 1
    assert 0 < (done.value("sweep_duration_seconds_sum") or 0) < 30


def test_calls_to_openai_are_counted_by_operation_and_outcome(seen: Seen) -> None:
    done = seen["all done"]
    for operation, number in (("files.create", 2), ("batches.create", 1), ("files.content", 1)):
        assert done.value("openai_calls_total", operation=operation, outcome="ok") == number
        assert done.value("openai_call_duration_seconds_count", operation=operation) == number
    assert done.total("openai_calls_total", outcome="rate_limited") == 0


def test_the_end_of_a_batch_adds_its_tokens_and_completion_lag(seen: Seen) -> None:
    done = seen["all done"]
    for direction in ("input", "output"):
        assert (done.value("tokens_total", direction=direction) or 0) > 0
    assert done.value("completion_lag_seconds_count", source="poll") == 1
    assert (done.value("completion_lag_seconds_sum", source="poll") or 0) < 30
    assert done.value("webhook_deliveries_total", result="accepted") == 1


def test_rate_limits_are_counted_as_outcomes_and_as_waits(seen: Seen) -> None:
    limited = seen["rate limited"]
    assert limited.total("openai_calls_total", outcome="rate_limited") >= 1
    # At least as long as OpenAI asked to wait.
    waited_s = limited.value("openai_wait_seconds_total", reason="rate_limited") or 0
    assert waited_s >= 1.9
    left_s = limited.value("credential_backoff_seconds", credential=str(CREDENTIAL))
    assert left_s is not None
    assert left_s > 0
    assert limited.total("openai_calls_total", outcome="unavailable") == 0


def test_jobs_in_quota_queues_are_counted(seen: Seen) -> None:
    queue = {"credential": str(CREDENTIAL), "model": MODEL}
    assert seen["over quota"].value("jobs_waiting_for_capacity", **queue) == 1


def test_a_stopped_worker_is_missing_at_once_and_a_killed_one_after_a_minute(seen: Seen) -> None:
    def alive(moment: str) -> list[float | None]:
        return [seen[moment].value("workers", queue=queue.value) for queue in Queue]

    assert alive("two messages") == [0, 0, 0]
    assert alive("two workers") == [1, 1, 2]
    assert alive("one killed") == [1, 1, 2]
    assert alive("the other ended") == [1, 1, 1]
    assert alive("a minute later") == [0, 0, 0]


# The response


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;version=latest", TEXT),
        ("text/plain;version=new", TEXT),
    ],
)
def test_a_scraper_gets_the_format_that_it_accepts(
    gateway: Gateway, accept: str, expected: str
) -> None:
    with gateway.client() as client:
        answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == expected
    found = Exposition(answer.text, openmetrics=expected == OPENMETRICS)
    assert found.value("redis_up") == 1


def test_without_redis_only_the_two_up_metrics_are_exported(
    settings: Callable[..., Settings],
) -> None:
    unavailable = f"redis://127.0.0.1:{free_port()}/0"
    with running_gateway(settings(redis_url=unavailable)) as gateway, gateway.client() as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert problems(answer.text) == []
    found = Exposition(answer.text)
    assert found.samples == {("batchflow_redis_up", ()): 0, ("batchflow_broker_up", ()): 0}


def test_a_hanging_broker_does_not_delay_scrapes(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_BROKER_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker_url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        chosen = settings(broker_url=broker_url)
        with running_gateway(chosen) as gateway, gateway.client() as client:
            for _ in range(4):
                began = time.monotonic()
                found = Exposition(client.get("/metrics").text)
                assert time.monotonic() - began < 3
                assert found.value("redis_up") == 1
                assert found.value("broker_up") == 0
                assert found.value("queue_messages", queue="poll") is None
