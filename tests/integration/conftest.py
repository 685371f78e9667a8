"""What the tests of the store share, and those of the workers' steps."""

from collections.abc import Iterator

import pytest

from tests.kit.emulator import Emulator
from tests.kit.rigs import Rig, over_fakeredis, over_redis
from tests.kit.runtime import KEY
from tests.kit.steps import running_emulator


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    """OpenAI, to which a test may do what its ``emulator`` takes back."""
    with running_emulator(KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: Emulator) -> Iterator[Emulator]:
    """OpenAI as it is without faults; healed after the test."""
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
