"""Redis with a password, TLS, a socket and Sentinel; and how long records are kept."""

import asyncio
import contextlib
import datetime
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from batchflow_workers.policy import Policy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis, RedisError

from batchflow.errors import StoreUnavailable
from batchflow.jobs import BatchSpec, Credential, Job, JobRequest
from batchflow.queue import QueueUnavailable, Sender, Step, make_app, queue_name
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.states import JobKind, JobState
from batchflow.store import (
    AsyncJobStore,
    JobStore,
    connect,
    connect_async,
    index,
    keys,
    records,
    warn_of_eviction,
)
from tests.kit.emulator import Emulator
from tests.kit.job_requests import a_job_request
from tests.kit.processes import BIN, Process, clean_environment, stop_all, until
from tests.kit.workers import KEY, MakeWorkers, Workers, lines

#: A password with all characters that are special in a URL.
PASSWORD = "p@ss:/w?rd#%"
ENCODED = quote(PASSWORD, safe="")
TIMINGS = {
    "BATCHFLOW_POLL_INTERVAL_S": "0.3",
    "BATCHFLOW_SWEEP_INTERVAL_S": "0.3",
    "BATCHFLOW_SETTLE_S": "0.5",
    "BATCHFLOW_LEASE_S": "2",
    "BATCHFLOW_OPENAI_TIMEOUT_S": "5",
}
EVICTION = "it will evict live jobs"
MASTER = "mymaster"
DOWN_AFTER_MS = 1_000


@pytest.fixture
def emulator(server: Emulator) -> Iterator[Emulator]:
    server.configure(in_progress_s=0.3)
    yield server
    server.heal()


class Place:
    """Processes of a test, in a folder of their own."""

    def __init__(self, folder: Path, emulator: Emulator, key_prefix: str) -> None:
        self.folder = folder
        self.emulator = emulator
        self.key_prefix = key_prefix
        self.organization = f"org-{key_prefix}"
        self._processes: list[Process] = []

    def start(self, name: str, *command: str | Path, **env: str) -> Process:
        """Start a process; the end of the test stops it."""
        env = clean_environment() | env
        process = Process(name, command, env, self.folder / f"{name}.log")
        self._processes.append(process)
        process.start()
        return process

    def stop(self) -> None:
        stop_all(self._processes[::-1])

    def redis(self, name: str, *options: str | Path) -> Process:
        """A Redis of this test."""
        binary = shutil.which("redis-server")
        assert binary is not None, "these tests need a redis-server on PATH"
        folder = self.folder / name
        folder.mkdir()
        usual: list[str | Path] = [
            "--bind",
            "127.0.0.1",
            "--dir",
            folder,
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        process = self.start(name, binary, *usual, *options)
        until(lambda: process.logged("eady to accept connections"), "Redis to be ready")
        return process

    def settings(self, url: str) -> Settings:
        return Settings.model_validate({"redis_url": url, "key_prefix": self.key_prefix})

    @contextlib.contextmanager
    def store(self, url: str) -> Iterator[JobStore]:
        store = connect(self.settings(url))
        with store.redis:
            yield store

    def workers(self, url: str) -> list[Process]:
        """A worker and a scheduler, ready."""
        env = {
            **TIMINGS,
            "BATCHFLOW_REDIS_URL": url,
            "BATCHFLOW_KEY_PREFIX": self.key_prefix,
            "OPENAI_BASE_URL": self.emulator.base_url,
            "_FSEC_FLYTE_OPENAI_API_KEY": KEY,
        }
        celery = (BIN / "celery", "-A", "batchflow_workers")
        options = ["-P", "threads", "--concurrency", "4", "--loglevel", "DEBUG"]
        worker = self.start("worker", *celery, "worker", *options, **env)
        beat = self.start("beat", *celery, "beat", "--pidfile", "", "--loglevel", "DEBUG", **env)
        until(lambda: worker.logged(" ready."), "the worker to be ready")
        return [worker, beat]

    def job_request(self) -> JobRequest:
        """A batch of this test's organization."""
        spec = BatchSpec(
            credential=Credential(organization=self.organization),
            input_file_id=self.emulator.upload(self.organization, lines()),
            config={},
        )
        return a_job_request(spec=spec)

    def batches_of(self, job_request: JobRequest) -> list[str]:
        """The batches of a job at OpenAI."""
        return [
            batch["id"]
            for batch in self.emulator.batches(self.organization)
            if batch["metadata"]["batchflow_job"] == job_request.job_id
        ]

    def logs(self) -> str:
        """All logs."""
        return "".join(path.read_text("utf-8", "replace") for path in self.folder.glob("*.log"))


@pytest.fixture
def place(tmp_path: Path, emulator: Emulator, key_prefix: str) -> Iterator[Place]:
    place = Place(tmp_path, emulator, key_prefix)
    try:
        yield place
    finally:
        place.stop()


@contextlib.asynccontextmanager
async def async_store(settings: Settings) -> AsyncIterator[AsyncJobStore]:
    """The connector's store, whose connections are closed in its own loop."""
    store = connect_async(settings)
    try:
        yield store
    finally:
        await store.redis.aclose()
        sentinel = getattr(store.redis.connection_pool, "sentinel_manager", None)
        for client in sentinel.sentinels if sentinel else []:
            await client.aclose()


def read(store: JobStore, job_request: JobRequest) -> Job:
    job = store.run(records.get(job_request.job_id))
    assert job is not None
    return job


def runs_a_batch(place: Place, url: str) -> None:
    """Run a batch, for which connector, Celery and workers have to reach this Redis."""
    job_request = place.job_request()
    settings = place.settings(url)

    async def created() -> bool:
        async with async_store(settings) as store:
            new = (await store.run(records.create(job_request, due_in_s=60))).new
            job = await store.run(records.get(job_request.job_id))
            return new and job is not None and job.state is JobState.QUEUED

    assert asyncio.run(created())
    app = make_app(settings)
    Sender(app).send(Step.SUBMIT, job_request.job_id)
    app.close()
    with place.store(url) as store:
        until(lambda: read(store, job_request).succeeded, "a batch that succeeds", every_s=0.1)
    assert len(place.batches_of(job_request)) == 1


def assert_no_password_in_logs(place: Place) -> None:
    logs = place.logs()
    for form in (PASSWORD, ENCODED, repr(PASSWORD)):
        assert form not in logs


# A password, and a limit


def test_a_password_and_a_memory_limit(place: Place) -> None:
    port = free_port()
    limit = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]
    place.redis("redis", "--port", str(port), "--requirepass", PASSWORD, *limit)
    url = f"redis://:{ENCODED}@127.0.0.1:{port}/0"
    [worker, _] = place.workers(url)
    until(lambda: EVICTION in worker.log(), "a warning of the eviction policy")
    assert "eviction policy allkeys-lru" in worker.log()
    runs_a_batch(place, url)
    assert_no_password_in_logs(place)
    assert PASSWORD not in repr(place.settings(url))
    assert ENCODED not in repr(place.settings(url))


def test_an_error_about_a_wrong_password_does_not_contain_it(place: Place) -> None:
    port = free_port()
    place.redis("redis", "--port", str(port), "--requirepass", "another-one")
    url = f"redis://:{ENCODED}@127.0.0.1:{port}/0"
    settings = place.settings(url)
    with place.store(url) as store, pytest.raises(StoreUnavailable) as caught:
        store.run(index.counts())
    messages = [str(caught.value), repr(caught.value.__cause__)]

    async def ask() -> None:
        async with async_store(settings) as store:
            await store.run(index.counts())

    with pytest.raises(StoreUnavailable) as caught:
        asyncio.run(ask())
    messages += [str(caught.value), repr(caught.value.__cause__)]
    app = make_app(settings)
    with pytest.raises(QueueUnavailable) as unsent:
        Sender(app).send(Step.SUBMIT, "bf-1")
    app.close()
    messages += [str(unsent.value), repr(unsent.value.__cause__)]
    for text in messages:
        assert PASSWORD not in text
        assert ENCODED not in text
    env = {"BATCHFLOW_REDIS_URL": url}
    command = (BIN / "celery", "-A", "batchflow_workers", "worker", "-P", "solo")
    worker = place.start("worker", *command, "--loglevel", "DEBUG", **env)
    until(lambda: "Redis can't be reached" in worker.log(), "a worker that says so")
    until(lambda: "consumer" in worker.log() or not worker.running, "a consumer that says so")
    assert_no_password_in_logs(place)


def test_only_a_memory_limit_with_eviction_is_warned_of(
    place: Place, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with place.store(redis_url) as store:
        policy: Any = store.redis.config_get("maxmemory-policy")
        assert policy == {"maxmemory-policy": "noeviction"}
        warn_of_eviction(store)
        assert not caplog.records


# TLS and sockets


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a self-signed certificate for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_path, path = folder / "key.pem", folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return key_path, path


def test_tls(place: Place, tmp_path: Path) -> None:
    port = free_port()
    key, certificate = make_certificate(tmp_path)
    tls = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key)
    authority = ("--tls-ca-cert-file", certificate, "--tls-auth-clients", "no")
    place.redis("redis", "--port", "0", *tls, *authority, "--requirepass", PASSWORD)
    host = f"rediss://:{ENCODED}@localhost:{port}/0"
    url = f"{host}?ssl_ca_certs={certificate}"
    # Neither client accepts a certificate of an unknown issuer.
    with place.store(host) as store, pytest.raises(StoreUnavailable, match="certificate"):
        store.run(index.counts())
    # With another host name, because kombu caches connections by host and port.
    app = make_app(place.settings(host.replace("localhost", "127.0.0.1")))
    with pytest.raises(QueueUnavailable, match="certificate"):
        Sender(app).send(Step.SUBMIT, "bf-1")
    app.close()
    [worker, _] = place.workers(url)
    runs_a_batch(place, url)
    assert EVICTION not in worker.log()
    assert_no_password_in_logs(place)


def test_a_socket(place: Place) -> None:
    # A socket's path may have 107 characters, and the test's folder may have as many.
    path = Path(f"/tmp/{place.key_prefix[:20]}.sock")
    place.redis("redis", "--port", "0", "--unixsocket", path, "--requirepass", PASSWORD)
    url = f"unix://:{ENCODED}@{path}?db=3"
    place.workers(url)
    runs_a_batch(place, url)
    queue = queue_name(place.key_prefix, "submit")
    with place.store(url) as store, place.store(url.replace("db=3", "db=0")) as other:
        assert store.redis.keys(f"*{queue}*")
        assert not other.redis.keys(f"*{queue}*")
    assert_no_password_in_logs(place)


# Sentinel


class Sentinels:
    """A master, a replica, and a Sentinel that fails over."""

    def __init__(self, place: Place, password: str, sentinel_password: str) -> None:
        login = ["--requirepass", password, "--masterauth", password]
        ports = free_port(), free_port()
        self.ports = ports
        self.master = place.redis("master", "--port", str(ports[0]), *login)
        follow = ["--replicaof", f"127.0.0.1 {ports[0]}"]
        self.replica = place.redis("replica", "--port", str(ports[1]), *login, *follow)
        until(lambda: "Finished with success" in self.replica.log(), "a replica that has all")
        port, folder = free_port(), place.folder / "sentinel"
        folder.mkdir()
        (folder / "sentinel.conf").write_text(
            f"port {port}\n"
            f"bind 127.0.0.1\n"
            f"dir {folder}\n"
            f'requirepass "{sentinel_password}"\n'
            f"sentinel monitor {MASTER} 127.0.0.1 {ports[0]} 1\n"
            f'sentinel auth-pass {MASTER} "{password}"\n'
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER} 5000\n"
        )
        binary = str(shutil.which("redis-server"))
        self.sentinel = place.start("sentinel", binary, folder / "sentinel.conf", "--sentinel")
        # The first Sentinel is unavailable.
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{port}"
        login_of_sentinel = f"?sentinel_password={quote(sentinel_password, safe='')}"
        self.url = f"sentinel://:{quote(password, safe='')}@{hosts}/{MASTER}/0{login_of_sentinel}"
        until(self._knows_the_replica(port, sentinel_password), "a Sentinel that knows the replica")

    def _knows_the_replica(self, port: int, password: str) -> Callable[[], bool]:
        def knows() -> bool:
            with Redis(port=port, password=password) as client, contextlib.suppress(RedisError):
                return bool(client.sentinel_slaves(MASTER))
            return False

        return knows


def test_a_failover_during_work(place: Place, emulator: Emulator) -> None:
    other = "s3ntinel#/pw"
    sentinels = Sentinels(place, PASSWORD, other)
    url = sentinels.url
    place.workers(url)
    emulator.configure(in_progress_s=600)
    with place.store(url) as store:
        running, sent = place.job_request(), place.job_request()
        store.run(records.create(running, due_in_s=0))
        until(lambda: read(store, running).openai_status == "in_progress", "a batch in progress")
        # The response to this request arrives when no Redis is available to record it.
        emulator.outage(answer="normal", operations=["batches.create"], delay_s=1.5)
        store.run(records.create(sent, due_in_s=0))
        until(lambda: read(store, sent).tries == 1, "a request in progress")
        until(lambda: replicated(store), "a replica that has all", every_s=0.01)
        sentinels.master.kill()
        with pytest.raises(StoreUnavailable):
            store.run(records.get(sent.job_id))

        def is_back() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return read(store, sent).kind is JobKind.BATCH
            return False

        until(is_back, "a new master")
        emulator.end_outages()
        until(lambda: read(store, sent).batch_id, "the batch whose reply was lost", every_s=0.2)
        for job_request in (running, sent):
            [batch_id] = place.batches_of(job_request)
            emulator.end(batch_id)
        until(lambda: read(store, running).succeeded, "the end of the first batch")
        until(lambda: read(store, sent).succeeded, "the end of the other batch")
        assert [len(place.batches_of(job_request)) for job_request in (running, sent)] == [1, 1]
    # After the failover, all clients work.
    emulator.configure(in_progress_s=0)
    runs_a_batch(place, url)
    assert_no_password_in_logs(place)
    assert other not in place.logs()
    assert quote(other, safe="") not in place.logs()


def replicated(store: JobStore) -> bool:
    """Whether the replica has all that the master has."""
    info: Any = store.redis.info("replication")
    return bool(info["slave0"]["offset"] == info["master_repl_offset"])


# Restored to an earlier time


def test_redis_goes_back_while_workers_run(place: Place, emulator: Emulator) -> None:
    port = free_port()
    persistence = ("--appendonly", "yes", "--appendfsync", "always")
    server = place.redis("redis", "--port", str(port), *persistence)
    url = f"redis://127.0.0.1:{port}/0"
    emulator.configure(in_progress_s=600)
    with place.store(url) as store:
        store.run(records.check_server())
        jobs = [place.job_request() for _ in range(20)]
        for job_request in jobs:
            store.run(records.create(job_request, due_in_s=0))
        files, saved = place.folder / "redis" / "appendonlydir", place.folder / "saved"
        shutil.copytree(files, saved)
        place.workers(url)
        until(lambda: all(place.batches_of(job_request) for job_request in jobs), "a batch of each")
        server.kill()
        shutil.rmtree(files)
        saved.rename(files)
        server.start()
        until(lambda: server.logged("eady to accept connections"), "Redis to be ready")

        def all_are_known() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return all(read(store, job_request).batch_id for job_request in jobs)
            return False

        until(all_are_known, "a batch in each record", every_s=0.2)
        expected = [[read(store, job_request).batch_id] for job_request in jobs]
    assert [place.batches_of(job_request) for job_request in jobs] == expected


# How long records are kept


@pytest.fixture
def purging(make_workers: MakeWorkers) -> Workers:
    """Workers that delete at most five records per sweep."""
    workers = make_workers(retention_s=60)
    workers.runtime = replace(workers.runtime, policy=Policy(purged_jobs=5))
    return workers


def a_job_of_age(workers: Workers, age_s: float, *, ended: bool) -> str:
    """A job that last changed ``age_s`` seconds ago."""
    store = workers.store
    job_id = workers.created(a_job_request(JobKind.DOWNLOAD))
    store.run(records.update(job_id, source="test", due_in_s=1_000))
    if ended:
        store.run(records.update(job_id, source="test", to=JobState.SUCCEEDED))
    at = store.run(records.time()) - age_s
    workers.change(job_id, updated_at=at)
    store.redis.zadd(workers.redis_key(keys.RECENT), {job_id: at})
    return job_id


def known(workers: Workers) -> set[str]:
    """The jobs that have a record."""
    prefix = workers.redis_key(keys.job(""))
    found = workers.store.redis.scan_iter(f"{prefix}*")
    return {str(key).removeprefix(prefix) for key in found}


def test_old_records_are_purged_and_live_ones_are_not(purging: Workers) -> None:
    live = {a_job_of_age(purging, 1_000 + n, ended=False) for n in range(12)}
    young = a_job_of_age(purging, 50, ended=True)
    old = {a_job_of_age(purging, 100 + n, ended=True) for n in range(12)}
    for _ in range(len(old)):
        purging.sweep()
    assert known(purging) == live | {young}
    redis = purging.store.redis
    for key in (keys.RECENT, keys.DUE):
        ids: Any = redis.zrange(purging.redis_key(key), 0, -1)
        assert set(ids) == (live if key == keys.DUE else live | {young})
    counts = purging.store.run(index.counts())
    assert counts[JobKind.DOWNLOAD, JobState.QUEUED] == len(live)
    assert counts[JobKind.DOWNLOAD, JobState.SUCCEEDED] == 1
    for job_id in old:
        assert purging.store.run(records.get(job_id)) is None
    # A purged job can be created again.
    assert purging.created(a_job_request(job_id=old.pop()))


def test_a_record_that_cannot_be_purged_does_not_block_others(purging: Workers) -> None:
    """Live jobs whose due time was lost look as if they had ended."""
    live = {a_job_of_age(purging, 1_000 + n, ended=False) for n in range(7)}
    purging.store.redis.delete(purging.redis_key(keys.DUE))
    a_job_of_age(purging, 100, ended=True)
    purging.sweep()
    assert known(purging) == live
