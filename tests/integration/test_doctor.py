"""The checks of the doctor, each against healthy and failing services."""

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, TypeVar, cast

import fakeredis
import fsspec
import pytest

from batchflow.cli import doctor
from batchflow.cli.checks import credentials, fleet, gateway, machine, redis
from batchflow.cli.checks.check import Check, CheckContext, CheckResult, Level
from batchflow.jobs import BatchSpec, Credential
from batchflow.openai_client.webhook_events import WEBHOOK_PATH
from batchflow.overview.health import UNCOLLECTED_S
from batchflow.queue import Queue, Sender, Step, make_app
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import (
    AsyncJobStore,
    JobStore,
    backoff,
    connect,
    connect_async,
    heartbeats,
    keys,
    metrics,
    records,
)
from batchflow.store.command import Command
from tests.kit.cli import call
from tests.kit.deliveries import SECRET
from tests.kit.emulator import Emulator, running_emulator
from tests.kit.gateway import running_gateway
from tests.kit.job_requests import a_job_request
from tests.kit.stores import end_earlier
from tests.kit.workers import wait_in_queue

#: Unique, so that no other test's client is affected.
KEY = f"sk-{uuid.uuid4().hex}"
OK, NOTE, WARNING, PROBLEM = Level.OK, Level.NOTE, Level.WARNING, Level.PROBLEM
MakeSettings = Callable[..., Settings]
T = TypeVar("T")


def with_context(settings: Settings, use: Callable[[CheckContext], Awaitable[T]]) -> T:
    async def session() -> T:
        store = connect_async(settings)
        try:
            return await use(CheckContext(settings, store))
        finally:
            await store.redis.aclose()

    return asyncio.run(session())


def run_check(settings: Settings, check: Check) -> dict[str, CheckResult]:
    """Run a check; the last result about each subject, by subject."""
    return {result.what: result for result in with_context(settings, check)}


def run_check_on(store: object, check: Check) -> dict[str, CheckResult]:
    """Run a check with this store in place of a connection to the tests' Redis."""
    context = CheckContext(Settings.model_validate({}), cast(AsyncJobStore, store))

    async def results() -> Iterable[CheckResult]:
        return await check(context)

    return {result.what: result for result in asyncio.run(results())}


@pytest.fixture
def store(settings: MakeSettings) -> Iterator[JobStore]:
    """The store that workers would write to."""
    store = connect(settings())
    with store.redis:
        yield store


@pytest.fixture
def configure(store: JobStore) -> Iterator[Callable[..., None]]:
    """Configure Redis for the time of a test."""
    client: Any = store.redis
    before: dict[str, str] = {}

    def set_(**values: object) -> None:
        for given, value in values.items():
            name = given.replace("_", "-")
            before.setdefault(name, client.config_get(name)[name])
            client.config_set(name, str(value))

    yield set_
    for name, value in before.items():
        client.config_set(name, value)


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with running_emulator(KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """OpenAI, with the default API key on this machine."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", KEY)
    yield server
    server.heal()


# Redis


def test_redis_answers(settings: MakeSettings) -> None:
    assert run_check(settings(), redis.connection)["connection"].level is OK
    found = run_check(settings(), redis.server)
    assert {finding.what: finding.level for finding in found.values()} == {
        "version": OK,
        "persistence": WARNING,
        "eviction": OK,
        "memory": OK,
    }
    assert "appendonly yes" in found["persistence"].advice


def test_redis_with_an_append_only_file(
    settings: MakeSettings, configure: Callable[..., None]
) -> None:
    configure(appendonly="yes")
    assert run_check(settings(), redis.server)["persistence"].level is OK


def test_redis_that_evicts_keys(settings: MakeSettings, configure: Callable[..., None]) -> None:
    configure(maxmemory_policy="allkeys-lru")
    assert run_check(settings(), redis.server)["eviction"].level is OK
    configure(maxmemory="1gb")
    found = run_check(settings(), redis.server)["eviction"]
    assert (found.level, found.seen) == (PROBLEM, "allkeys-lru")
    assert "noeviction" in found.advice


@pytest.mark.parametrize(("share", "level"), [(0.5, OK), (0.82, WARNING), (0.95, PROBLEM)])
def test_redis_with_little_memory_left(
    settings: MakeSettings,
    store: JobStore,
    configure: Callable[..., None],
    share: float,
    level: Level,
) -> None:
    client: Any = store.redis
    configure(maxmemory=int(client.info("memory")["used_memory"] / share))
    assert run_check(settings(), redis.server)["memory"].level is level


def test_the_compact_encoding_of_records(
    settings: MakeSettings, configure: Callable[..., None]
) -> None:
    assert run_check(settings(), redis.record_encoding)["records"].level is NOTE
    configure(hash_max_listpack_value=2_048)
    assert not run_check(settings(), redis.record_encoding)


class _FakeRedis:
    """A Redis with the given server information."""

    def __init__(self, **info: object) -> None:
        self._info = {"redis_version": "7.2.4", "aof_enabled": 1} | info

    async def run(self, command: Command[Any]) -> Any:
        return command.parse(self._info)


@pytest.mark.parametrize(
    ("info", "what", "level"),
    [
        ({"redis_version": "6.2.14"}, "version", OK),
        ({"redis_version": "6.0.16"}, "version", PROBLEM),
        ({"redis_version": "255.255.255"}, "version", OK),
        ({"redis_mode": "cluster"}, "version", PROBLEM),
        ({"aof_last_write_status": "err"}, "persistence", PROBLEM),
        ({"rdb_last_bgsave_status": "err"}, "persistence", PROBLEM),
    ],
)
def test_server_information(info: dict[str, object], what: str, level: Level) -> None:
    assert run_check_on(_FakeRedis(**info), redis.server)[what].level is level


def test_a_server_without_information() -> None:
    client = fakeredis.FakeAsyncRedis(decode_responses=True)
    [finding] = run_check_on(AsyncJobStore(client, "test"), redis.server).values()
    assert finding.level is NOTE
    assert "call INFO" in finding.advice


# Clocks


@contextmanager
def _a_server(date: str | None) -> Iterator[str]:
    """An HTTP server with this date in its responses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(401)
            if date:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("ahead_s", "level", "seen"),
    [(0, OK, "within"), (60, WARNING, "ahead"), (-60, WARNING, "behind"), (3_600, PROBLEM, "3,")],
)
def test_openai_s_clock(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, ahead_s: float, level: Level, seen: str
) -> None:
    with _a_server(formatdate(time.time() + ahead_s, usegmt=True)) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        found = run_check(settings(), machine.openai_clock)["OpenAI"]
    assert found.level is level
    assert seen in found.seen


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_a_server_without_a_clock(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, date: str | None
) -> None:
    with _a_server(date) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        assert run_check(settings(), machine.openai_clock)["OpenAI"].level is NOTE


def test_the_redis_clock_and_an_unreachable_openai(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_check(settings(), machine.redis_clock)["Redis"].level is OK
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    found = run_check(settings(), machine.openai_clock)["OpenAI"]
    assert found.level is WARNING
    assert "can't be reached from this machine" in found.seen


# Celery


def test_an_available_broker(settings: MakeSettings) -> None:
    found = run_check(settings(), fleet.broker)["broker"]
    assert found.level is OK
    assert "in the same Redis as the jobs" in found.seen


def test_an_unavailable_broker(settings: MakeSettings) -> None:
    unavailable = settings(broker_url="redis://:hunter2@127.0.0.1:1/0")
    found = run_check(unavailable, fleet.broker)["broker"]
    assert found.level is PROBLEM
    assert "hunter2" not in str(found)


def test_queues_and_the_age_of_their_messages(
    settings: MakeSettings, store: JobStore, key_prefix: str
) -> None:
    Sender(make_app(settings())).send(Step.SUBMIT, "bf-" + "a" * 26)
    old = json.dumps({"headers": {"sent_at": time.time() - 300}})
    cast(Any, store.redis).lpush(f"{key_prefix}.files", old)
    found = run_check(settings(), fleet.queues)
    assert found[f"{key_prefix}.poll"].seen == "empty"
    assert found[f"{key_prefix}.submit"].level is OK
    assert found[f"{key_prefix}.submit"].seen.startswith("1 message, the oldest waiting for ")
    assert found[f"{key_prefix}.files"].level is WARNING
    assert f"-Q {key_prefix}.files" in found[f"{key_prefix}.files"].advice


def test_workers_of_each_queue(settings: MakeSettings, store: JobStore, key_prefix: str) -> None:
    store.run(heartbeats.beat("one@host", ["poll", "submit"]))
    store.run(heartbeats.beat("two@host", ["submit"]))
    found = run_check(settings(), fleet.workers)
    assert found["workers on submit"].seen == "2: one@host, two@host"
    assert found["workers on poll"].level is OK
    assert found["workers on files"].level is PROBLEM
    assert f"celery -A batchflow_workers worker -Q {key_prefix}.files" in (
        found["workers on files"].advice
    )


def test_the_last_sweep(settings: MakeSettings, store: JobStore) -> None:
    assert run_check(settings(), fleet.beat)["beat"].level is PROBLEM
    store.run(heartbeats.record_event("sweep"))
    assert run_check(settings(), fleet.beat)["beat"].level is OK
    store.run(heartbeats.record_event(sweep=store.run(records.time()) - 60))
    found = run_check(settings(), fleet.beat)["beat"]
    assert found.level is PROBLEM
    assert "last sweep 1 min" in found.seen
    assert "celery -A batchflow_workers beat" in found.advice
    assert run_check(settings(sweep_interval_s=60), fleet.beat)["beat"].level is OK


# Jobs


def _batch(store: JobStore, *, due_in_s: float = 600) -> str:
    job_request = a_job_request()
    store.run(records.create(job_request, due_in_s=due_in_s))
    store.run(records.update(job_request.job_id, source="test", to=JobState.RUNNING))
    return job_request.job_id


def test_overdue_jobs(settings: MakeSettings, store: JobStore) -> None:
    assert run_check(settings(), fleet.overdue_jobs)["due jobs"].level is OK
    _batch(store)
    assert run_check(settings(), fleet.overdue_jobs)["due jobs"].level is OK
    _batch(store, due_in_s=-90)
    found = run_check(settings(), fleet.overdue_jobs)["due jobs"]
    assert found.level is PROBLEM
    assert "1 min 30 s" in found.seen


def test_jobs_without_a_due_time(settings: MakeSettings, store: JobStore, key_prefix: str) -> None:
    assert run_check(settings(), fleet.due_times)["due times"].level is OK
    _batch(store)
    lost = _batch(store)
    found = run_check(settings(), fleet.due_times)["due times"]
    assert (found.level, found.seen) == (OK, "2 live jobs, all with a due time")
    store.redis.zrem(keys.full(key_prefix, keys.DUE), lost)
    found = run_check(settings(), fleet.due_times)["due times"]
    assert (found.level, found.seen) == (WARNING, "only 1 of 2 live jobs have a due time")
    assert "it last did so: never" in found.advice
    store.run(heartbeats.record_event(due_check=store.run(records.time()) - 600))
    found = run_check(settings(), fleet.due_times)["due times"]
    assert "it last did so: 10 min ago" in found.advice


def test_records_that_the_workers_cannot_read(settings: MakeSettings, store: JobStore) -> None:
    job_id = _batch(store)
    assert run_check(settings(), fleet.records)["records"].level is OK
    store.run(records.isolate(job_id, again_s=600, lifetime_s=600))
    found = run_check(settings(), fleet.records)["records"]
    assert found.level is PROBLEM
    assert f"can't read those of 1 live job, such as {job_id}" in found.seen
    assert "Run the version that wrote them" in found.advice


def test_polls_that_have_stopped(settings: MakeSettings, store: JobStore, key_prefix: str) -> None:
    long_ago_s = store.run(records.time()) - 3_600
    store.run(heartbeats.record_event(poll=long_ago_s))
    assert run_check(settings(), fleet.polls)["polls"].level is OK, "no batch is running"
    job_id = _batch(store)
    assert run_check(settings(), fleet.polls)["polls"].level is OK, "the batch is new"
    older = {f"all batch running {long_ago_s - 60:.6f} {job_id}": 0}
    store.redis.zadd(keys.full(key_prefix, keys.INDEX), older)
    assert run_check(settings(), fleet.polls)["polls"].level is PROBLEM
    store.run(heartbeats.record_event("poll"))
    assert run_check(settings(), fleet.polls)["polls"].level is OK


def test_jobs_that_wait_for_quota(settings: MakeSettings, store: JobStore) -> None:
    job = store.run(records.get(_batch(store)))
    assert job
    wait_in_queue(store, "KEY|gpt-test", job.id)
    found = run_check(settings(), fleet.polls)["waiting"]
    assert found.level is WARNING
    assert "1 job" in found.seen


def test_results_that_flyte_has_not_collected(
    settings: MakeSettings, store: JobStore, key_prefix: str
) -> None:
    request = a_job_request(execution="shop/production/a7f3kq2m9x/n0")
    store.run(records.create(request, due_in_s=600))
    store.run(records.update(request.job_id, source="test", to=JobState.FAILED))
    assert run_check(settings(), fleet.uncollected_results)["collection"].level is OK
    end_earlier(store.redis, key_prefix, request.job_id, UNCOLLECTED_S)
    found = run_check(settings(), fleet.uncollected_results)["collection"]
    assert found.level is PROBLEM
    assert "1 job" in found.seen
    assert request.job_id in found.seen
    assert "restart FlytePropeller" in found.advice
    store.run(records.collect(request.job_id))
    assert run_check(settings(), fleet.uncollected_results)["collection"].level is OK


# OpenAI


def test_an_accepted_key(settings: MakeSettings, emulator: Emulator) -> None:
    assert run_check(settings(), credentials.credentials)["FLYTE_OPENAI_API_KEY"].level is OK


def test_a_rejected_key(settings: MakeSettings, emulator: Emulator) -> None:
    emulator.configure(refused_keys=[KEY])
    found = run_check(settings(), credentials.credentials)["FLYTE_OPENAI_API_KEY"]
    assert found.level is PROBLEM
    assert "HTTP 401" in found.seen
    assert KEY not in str(found)


def test_an_outage_at_openai(settings: MakeSettings, emulator: Emulator) -> None:
    emulator.outage(status=503)
    assert run_check(settings(), credentials.credentials)["FLYTE_OPENAI_API_KEY"].level is WARNING


def test_a_key_that_only_the_workers_have(
    settings: MakeSettings, store: JobStore, emulator: Emulator
) -> None:
    credential = Credential(group="elsewhere", key="api_key")
    spec = BatchSpec(credential=credential, input_file_id="file-1", config={})
    store.run(records.create(a_job_request(spec=spec), due_in_s=600))
    found = run_check(settings(), credentials.credentials)
    assert list(found) == ["elsewhere/api_key"]
    assert found["elsewhere/api_key"].level is NOTE
    assert run_check(settings(), gateway.endpoints)["endpoints of elsewhere/api_key"].level is NOTE


def test_a_key_that_the_workers_back_off_from(settings: MakeSettings, store: JobStore) -> None:
    def levels() -> list[Level]:
        return [result.level for result in with_context(settings(), credentials.credentials)]

    store.run(backoff.extend("FLYTE_OPENAI_API_KEY", message="Why."))
    assert levels() == [WARNING, NOTE]
    store.run(backoff.extend("FLYTE_OPENAI_API_KEY", message="Why.", retry_after_s=100))
    assert levels() == [PROBLEM, NOTE]


# Webhooks


def test_signing_secrets(settings: MakeSettings) -> None:
    assert run_check(settings(), gateway.webhook_secrets)["secret"].level is WARNING
    good = settings(webhook_secrets=[SECRET, SECRET])
    assert run_check(good, gateway.webhook_secrets)["secret"].seen == "2 secrets"


def test_endpoints_at_openai(settings: MakeSettings, emulator: Emulator, key_prefix: str) -> None:
    name, public_url = "endpoints of FLYTE_OPENAI_API_KEY", f"https://{key_prefix}.example.com"
    url = f"{public_url}{WEBHOOK_PATH}"
    here = settings(public_url=public_url, webhook_secrets=[SECRET])
    found = run_check(here, gateway.endpoints)[name]
    assert found.level is WARNING
    assert f"batchflow webhooks register {url}" in found.advice
    assert run_check(settings(public_url=public_url), gateway.endpoints)[name].level is NOTE

    with emulator.sdk("org-default") as client:
        some = client.webhooks.create(name="x", url=url, event_types=["batch.completed"])
        assert "batch.failed" in run_check(here, gateway.endpoints)[name].seen
        client.webhooks.update(
            some.id,
            event_types=["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"],
        )
        found = run_check(here, gateway.endpoints)[name]
        assert (found.level, found.seen) == (OK, url)
        client.webhooks.delete(some.id)


def test_a_server_without_webhooks(settings: MakeSettings, emulator: Emulator) -> None:
    emulator.outage(status=404, operations=["webhooks.*"])
    found = run_check(settings(), gateway.endpoints)["endpoints of FLYTE_OPENAI_API_KEY"]
    assert found.level is NOTE
    assert "has no API for webhook endpoints" in found.seen


def test_deliveries(settings: MakeSettings, store: JobStore) -> None:
    assert run_check(settings(), gateway.deliveries)["deliveries"].level is NOTE
    store.run(metrics.count("webhook_deliveries", "rejected"))
    assert run_check(settings(), gateway.deliveries)["deliveries"].level is WARNING
    store.run(heartbeats.record_event("webhook"))
    assert run_check(settings(), gateway.deliveries)["deliveries"].level is OK


# Files


def test_file_locations(settings: MakeSettings, store: JobStore, tmp_path: Path) -> None:
    here = settings(allowed_uris=f"{tmp_path}/,{tmp_path}/none/,s3://")
    found = run_check(here, machine.file_locations)
    assert found[f"{tmp_path}/"].level is OK
    assert found[f"{tmp_path}/none/"].level is WARNING
    assert found["object stores"].level is NOTE
    assert not list(tmp_path.iterdir())

    store.run(heartbeats.beat(f"celery@{socket.gethostname()}", [Queue.FILES]))
    found = run_check(here, machine.file_locations)
    assert found[f"{tmp_path}/none/"].level is PROBLEM, "a worker on this machine uses it"


def test_object_storage(settings: MakeSettings, key_prefix: str) -> None:
    uri = f"memory://{key_prefix}/"
    assert run_check(settings(allowed_uris=uri), machine.file_locations)[uri].level is OK
    assert not fsspec.filesystem("memory").find(uri)


# Gateway and software


def test_a_gateway_and_its_settings(settings: MakeSettings) -> None:
    with running_gateway(settings(webhook_secrets=[SECRET])) as ready:
        here = settings(public_url=ready.url, api_token="t" * 32)
        assert {f.level for f in run_check(here, gateway.settings).values()} == {OK}
        assert run_check(here, gateway.readiness)["gateway"].level is OK


def test_a_gateway_without_a_secret(settings: MakeSettings) -> None:
    with running_gateway(settings()) as ready:
        found = run_check(settings(public_url=ready.url), gateway.readiness)["gateway"]
    assert found.level is WARNING
    assert "OPENAI_WEBHOOK_SECRET" in found.advice


def test_an_address_without_a_gateway(settings: MakeSettings, emulator: Emulator) -> None:
    for url in ("http://127.0.0.1:1", emulator.base_url):
        assert run_check(settings(public_url=url), gateway.readiness)["gateway"].level is WARNING
    assert not run_check(settings(), gateway.readiness)


def test_gateway_settings_to_improve(settings: MakeSettings) -> None:
    found = run_check(settings(), gateway.settings)
    assert [found[what].level for what in ("address", "token")] == [NOTE, NOTE]
    short = settings(public_url="http://batchflow.example.com", api_token="secret-token-123")
    found = run_check(short, gateway.settings)
    assert [found[what].level for what in ("address", "token")] == [WARNING, NOTE]
    assert "secret-token-123" not in str(found)


def test_versions(settings: MakeSettings) -> None:
    found = run_check(settings(), machine.software)
    assert all(found[name].seen[0].isdigit() for name in ("Python", "openai", "celery"))


# All of it


def _doctor(*options: str, **env: str) -> tuple[int, str]:
    result = call("doctor", *options, env={"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", **env})
    return result.exit_code, result.output


def test_without_redis_the_other_checks_are_made() -> None:
    code, output = _doctor("--json", BATCHFLOW_REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    assert code == 1
    assert "hunter2" not in output
    sections = {section["name"]: section["findings"] for section in json.loads(output)["sections"]}
    connection = sections["Redis"][0]
    assert (connection["what"], connection["level"]) == ("connection", "problem")
    assert connection["seen"].startswith("Redis can't be reached")
    assert [finding["level"] for finding in sections["Jobs"]] == ["note"] * 5
    assert all(finding["level"] == "ok" for finding in sections["Software"])
    assert "the check failed" not in output


def test_without_a_broker_the_queues_are_not_checked(redis_url: str, key_prefix: str) -> None:
    code, output = _doctor(
        "--json",
        BATCHFLOW_REDIS_URL=redis_url,
        BATCHFLOW_KEY_PREFIX=key_prefix,
        BATCHFLOW_BROKER_URL="redis://:hunter2@127.0.0.1:1/0",
    )
    assert code == 1
    assert "hunter2" not in output
    sections = {section["name"]: section["findings"] for section in json.loads(output)["sections"]}
    found = {finding["what"]: finding for finding in sections["Celery"]}
    assert found["broker"]["level"] == "problem"
    assert found["queues"]["seen"] == "not checked: Celery's broker is unavailable"


def test_an_invalid_secret_is_a_problem_and_not_shown(redis_url: str, key_prefix: str) -> None:
    code, output = _doctor(
        BATCHFLOW_REDIS_URL=redis_url,
        BATCHFLOW_KEY_PREFIX=key_prefix,
        OPENAI_WEBHOOK_SECRET=f"{SECRET},hunter2",
    )
    assert code == 1
    assert "secret 2 in it does not begin with whsec_" in output
    assert "hunter2" not in output


def test_a_check_may_time_out_or_fail(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleeps(context: CheckContext) -> list[CheckResult]:
        await asyncio.sleep(3_600)
        return []

    async def breaks(context: CheckContext) -> list[CheckResult]:
        raise ValueError("sk-secret")

    async def fine(context: CheckContext) -> list[CheckResult]:
        return [CheckResult(OK, "fine", "fine")]

    monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(doctor, "_CHECKS", [("All", (sleeps, breaks, fine))])

    (section,) = with_context(settings(), doctor.run_checks)
    assert [finding.level for finding in section.findings] == [PROBLEM, PROBLEM, OK]
    assert "timed out after 0.1 s" in section.findings[0].seen
    assert "ValueError" in section.findings[1].seen
    assert "sk-secret" not in str(section)
