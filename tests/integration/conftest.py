"""Fixtures of the integration tests: an emulator, workers, and stores of each kind."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import fsspec
import pytest
from batchflow_workers.runtime import Runtime

from batchflow.openai_client import client
from batchflow.settings import Settings
from batchflow.store import connect
from tests.kit.emulator import Emulator, running_emulator
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.stores import StoreHarness, over_fakeredis, over_redis
from tests.kit.workers import KEY, OTHER_KEY, MakeWorkers, RecordingSender, Workers


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    """The emulator of a module; tests use ``emulator``, which undoes their changes."""
    with running_emulator(KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: Emulator) -> Iterator[Emulator]:
    """The emulator; changes of its settings and outages end with the test."""
    yield server
    server.heal()


@pytest.fixture
def make_workers(
    emulator: Emulator,
    settings: Callable[..., Settings],
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[MakeWorkers]:
    """Makes workers with other settings than the quick ones of ``workers``."""
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.base_url)
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("_FSEC_OTHER_KEY", OTHER_KEY)
    client.cached_sdk_client.cache_clear()
    quick = {"settle_s": 0, "poll_interval_s": 0.05, "lease_s": 5, "openai_timeout_s": 5}
    with ExitStack() as stores:

        def make(**values: object) -> Workers:
            chosen, sender = settings(**quick | values), RecordingSender()
            store = connect(chosen)
            stores.enter_context(store.redis)
            return Workers(Runtime(chosen, store, sender), emulator, f"org-{key_prefix}", sender)

        yield make
    client.cached_sdk_client.cache_clear()


@pytest.fixture
def workers(make_workers: MakeWorkers) -> Workers:
    """Workers of an organization of the test's own, whose steps the test runs."""
    return make_workers()


@pytest.fixture
def gateway(settings: Callable[..., Settings]) -> Iterator[Gateway]:
    """A gateway without a token."""
    with running_gateway(settings()) as gateway:
        yield gateway


@pytest.fixture
def remote(make_workers: MakeWorkers, key_prefix: str) -> tuple[Workers, str, Any]:
    """Workers whose storage is not on their disk, its URI, and the storage itself."""
    uri = f"memory://{key_prefix}"
    return make_workers(allowed_uris=f"{uri}/"), uri, fsspec.filesystem("memory")


@pytest.fixture(
    params=["fakeredis-blocking", "fakeredis-asyncio", "redis-blocking", "redis-asyncio"]
)
def store(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[StoreHarness]:
    server, _, client = request.param.partition("-")
    blocking = client == "blocking"
    if server == "fakeredis":
        with over_fakeredis(key_prefix, blocking) as store:
            yield store
    else:
        with over_redis(key_prefix, blocking, request.getfixturevalue("redis_url")) as store:
            yield store
