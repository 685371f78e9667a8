"""What every test may ask for: a real Redis, keys of its own, settings, a clean environment."""

import importlib
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from batchflow.settings import Settings, load_settings
from batchflow.stack.processes import free_port

#: How long a fresh redis-server may take to answer.
REDIS_START_S = 20.0

#: Variables that would let the caller's environment decide a test.
FOREIGN_PREFIXES = ("BATCHFLOW_", "OPENAI_", "_FSEC_", "FLYTE_OPENAI")


def pytest_configure() -> None:
    """Keep the settings and secrets of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith(FOREIGN_PREFIXES)]:
        del os.environ[name]
    # Importing the workers' package makes a Celery app, which has to be told of a Redis. Nothing
    # connects to this one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHFLOW_REDIS_URL", "redis://127.0.0.1:1/0")
        importlib.import_module("batchflow_workers")
    load_settings.cache_clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests with the same id pytest-xdist would run one, and say nothing."""
    twice = [name for name, times in Counter(item.nodeid for item in items).items() if times > 1]
    if twice:
        raise pytest.UsageError(f"Several tests have the same id: {', '.join(twice)}")


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + REDIS_START_S
    with redis.Redis.from_url(url) as client:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if client.ping():
                    return
            except redis.RedisError:
                time.sleep(0.02)
    pytest.fail(f"The redis-server for the tests did not answer at {url}.")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Redis that lives as long as the test session and keeps nothing."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail("These tests need a real Redis: install `redis-server` and put it on PATH.")
    folder: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", "--logfile", str(folder / "redis.log")]
    server = subprocess.Popen(command)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        _wait_until_it_answers(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=REDIS_START_S)


@pytest.fixture
def key_prefix() -> str:
    """A namespace of its own for each test: nobody has to flush anything."""
    return f"test-{uuid4()}"


@pytest.fixture
def settings(redis_url: str, key_prefix: str) -> Callable[..., Settings]:
    """Make settings for this test's Redis and namespace; keywords override the rest."""

    def make(**values: object) -> Settings:
        return Settings.model_validate({"redis_url": redis_url, "key_prefix": key_prefix} | values)

    return make
