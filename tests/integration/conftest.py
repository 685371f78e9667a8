"""Fixtures of the integration tests: an emulator, and stores over fakeredis and Redis."""

from collections.abc import Iterator

import pytest

from tests.kit.emulator import Emulator, running_emulator
from tests.kit.rigs import Rig, over_fakeredis, over_redis
from tests.kit.runtime import KEY


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


@pytest.fixture(
    params=["fakeredis-blocking", "fakeredis-asyncio", "redis-blocking", "redis-asyncio"]
)
def rig(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[Rig]:
    server, _, face = request.param.partition("-")
    blocking = face == "blocking"
    if server == "fakeredis":
        with over_fakeredis(key_prefix, blocking) as rig:
            yield rig
    else:
        with over_redis(key_prefix, blocking, request.getfixturevalue("redis_url")) as rig:
            yield rig
