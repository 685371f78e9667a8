"""One batch or file per job: Redis goes back in time or is unavailable, and leases are lost."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from batchflow_workers.lease import Lease, lease

from batchflow.errors import LeaseLost
from batchflow.settings import Settings
from batchflow.states import JobKind, JobState
from batchflow.store import connect, keys, leases, records
from tests.kit.processes import RedisServer, until
from tests.kit.workers import MakeWorkers, Workers, lines

JOBS = 4
CREATE = {JobKind.BATCH: "batches.create", JobKind.UPLOAD: "files.create"}


class RestorableRedis(RedisServer):
    """A Redis that writes every change to disk, and can be put back to an earlier time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--appendonly", "yes", "--appendfsync", "always")
        self._files, self._saved = folder / "appendonlydir", folder / "saved"

    def save(self) -> None:
        """Copy the data as they are now."""
        shutil.copytree(self._files, self._saved)

    def restart(self, *, restored: bool) -> None:
        """Stop, and start with the present data or the saved ones."""
        self.stop()
        self.continue_after_stop(restored=restored)

    def continue_after_stop(self, *, restored: bool) -> None:
        """Start with the present data or the saved ones."""
        if restored:
            shutil.rmtree(self._files)
            self._saved.rename(self._files)
        self.start()
        self.await_ready()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RestorableRedis]:
    (folder := tmp_path / "redis").mkdir()
    with RestorableRedis(folder) as server:
        server.await_ready()
        yield server


@pytest.fixture
def workers(make_workers: MakeWorkers, redis: RestorableRedis) -> Workers:
    return make_workers(redis_url=redis.url, openai_timeout_s=2)


def some_jobs(workers: Workers, folder: Path, count: int = JOBS) -> list[str]:
    """Batches and uploads that nothing has been done for."""
    path = folder / "requests.jsonl"
    path.write_bytes(lines())
    return [workers.batch() for _ in range(count)] + [
        workers.upload(str(path)) for _ in range(count)
    ]


def made_for(workers: Workers, job_id: str) -> list[str]:
    """The batches or files that OpenAI has of a job."""
    files = [file["id"] for file in workers.uploads() if file["filename"] == f"{job_id}.jsonl"]
    return files + [batch["id"] for batch in workers.batches_of(job_id)]


def known_of(workers: Workers, job_id: str) -> str | None:
    """The batch or file that a job's record has."""
    job = workers.job(job_id)
    return job.batch_id if job.kind is JobKind.BATCH else (job.result or {}).get("file_id")


def assert_one_each(workers: Workers, ids: list[str]) -> None:
    """Work until each job has what it waits for, and check that OpenAI has it once."""
    workers.work_until(lambda: all(known_of(workers, i) for i in ids), "a result of each job")
    assert [made_for(workers, i) for i in ids] == [[known_of(workers, i)] for i in ids]


# Redis goes back in time


def test_redis_is_restored_from_before_the_tries(
    workers: Workers, redis: RestorableRedis, tmp_path: Path
) -> None:
    workers.sweep()
    done, untouched = some_jobs(workers, tmp_path), some_jobs(workers, tmp_path, 1)
    redis.save()
    workers.step(*done)
    assert all(known_of(workers, job_id) for job_id in done)
    redis.restart(restored=True)
    assert not any(known_of(workers, job_id) for job_id in done)
    assert_one_each(workers, done + untouched)


def test_a_replica_that_lags_is_promoted(
    workers: Workers, redis: RestorableRedis, make_workers: MakeWorkers, tmp_path: Path
) -> None:
    workers.sweep()
    ids = some_jobs(workers, tmp_path)
    (folder := tmp_path / "replica").mkdir()
    follow = ("--replicaof", f"127.0.0.1 {redis.port}")
    with RedisServer(folder, *follow, name="replica") as replica:
        others = make_workers(redis_url=replica.url, openai_timeout_s=2)
        client: Any = others.store.redis
        until(lambda: replica.logged("Finished with success"), "a replica that has all jobs")
        # From now on it lags.
        client.execute_command("REPLICAOF", "NO", "ONE")
        workers.step(*ids)
        redis.kill()
        assert_one_each(others, ids)


def test_a_planned_restart_creates_nothing_twice(
    workers: Workers, redis: RestorableRedis, tmp_path: Path
) -> None:
    workers.sweep()
    ids = some_jobs(workers, tmp_path)
    workers.step(*ids[::2])
    redis.restart(restored=False)
    assert_one_each(workers, ids)


# Redis is unavailable when OpenAI answers


@pytest.mark.parametrize("restored", [False, True], ids=["as it was", "from before the try"])
@pytest.mark.parametrize("kind", CREATE)
def test_what_was_created_is_kept_until_redis_has_it(
    workers: Workers,
    redis: RestorableRedis,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: JobKind,
    restored: bool,
) -> None:
    batch, upload = some_jobs(workers, tmp_path, 1)
    job_id = batch if kind is JobKind.BATCH else upload
    redis.save()
    workers.emulator.outage(answer="normal", operations=[CREATE[kind]], delay_s=1, count=1)
    worker = threading.Thread(target=workers.step, args=(job_id,))
    worker.start()
    until(lambda: made_for(workers, job_id), "OpenAI to have it", every_s=0.01)
    redis.stop()
    until(lambda: caplog.text.count("is not recorded yet") > 1, "two failed writes")
    redis.continue_after_stop(restored=restored)
    with workers.calls(batches_list=0, files_list=0):
        worker.join()
    assert made_for(workers, job_id) == [known_of(workers, job_id)]


def test_a_repeated_write_of_an_upload_does_not_delete_its_file(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job_id = some_jobs(workers, tmp_path, 1)
    end = type(workers.runtime).end

    def twice(*args: object, **fields: object) -> records.Updated:
        end(*args, **fields)  # type: ignore[arg-type]
        return end(*args, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(type(workers.runtime), "end", twice)
    workers.step(job_id)
    assert workers.job(job_id).state is JobState.SUCCEEDED
    assert made_for(workers, job_id) == [known_of(workers, job_id)]


# Leases


@contextmanager
def a_lease(settings: Settings, ttl_s: float) -> Iterator[Lease]:
    store = connect(settings)
    with closing(store.redis), lease(store, "job", ttl_s) as held:
        assert held is not None
        yield held


def is_lost(held: Lease) -> bool:
    try:
        held.require()
    except LeaseLost:
        return True
    return False


def test_a_lease_that_another_process_has_taken_is_lost(
    settings: Callable[..., Settings],
) -> None:
    with a_lease(settings(), ttl_s=0.3) as held:
        held.require()
        store = connect(settings())
        with closing(store.redis):
            store.redis.delete(f"{settings().key_prefix}:{keys.lease('job')}")
            assert store.run(leases.acquire("job", "another worker", ttl_s=60))
        until(lambda: is_lost(held), "the lease to be lost", every_s=0.01)


def test_a_lease_that_cannot_be_renewed_is_lost(
    settings: Callable[..., Settings], redis: RestorableRedis
) -> None:
    with a_lease(settings(redis_url=redis.url), ttl_s=1) as held:
        held.require()
        redis.stop()
        until(lambda: is_lost(held), "the lease to be lost", every_s=0.01)


@pytest.mark.parametrize("kind", CREATE)
def test_nothing_is_sent_when_the_lease_may_have_run_out(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: JobKind
) -> None:
    batch, upload = some_jobs(workers, tmp_path, 1)
    job_id = batch if kind is JobKind.BATCH else upload

    def lost(_: Lease) -> None:
        raise LeaseLost("The lease was lost")

    with monkeypatch.context() as patch, workers.calls(batches_create=0):
        patch.setattr(Lease, "require", lost)
        workers.step(job_id)
    assert not made_for(workers, job_id)
    # Another worker need not search for what was not sent.
    assert workers.job(job_id).tries == 0
    with workers.calls(batches_list=0, files_list=0):
        workers.step(job_id)
    assert made_for(workers, job_id) == [known_of(workers, job_id)]
