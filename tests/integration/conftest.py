"""What the tests of the store share."""

from collections.abc import Iterator

import pytest

from tests.support.rigs import Rig, over_fakeredis, over_redis


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
