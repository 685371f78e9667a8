"""Fixtures for all tests: a real Redis, a key prefix, settings, and a clean environment."""

import importlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from batchflow.settings import Settings, load_settings
from tests.kit.processes import NotReady, RedisServer, process_logs

TESTS = Path(__file__).parent
#: Variables of the caller's environment that would influence tests.
FOREIGN_PREFIXES = ("BATCHFLOW_", "OPENAI_", "_FSEC_", "FLYTE_OPENAI")


def pytest_configure() -> None:
    """Remove settings and secrets from the environment."""
    for name in [name for name in os.environ if name.startswith(FOREIGN_PREFIXES)]:
        del os.environ[name]
    # Importing the workers' package makes a Celery app, which needs the URL of a Redis. Nothing
    # connects to this one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHFLOW_REDIS_URL", "redis://127.0.0.1:1/0")
        importlib.import_module("batchflow_workers")
    load_settings.cache_clear()
    # No test leaves this machine, and each HTTP client would load all certificates of the system,
    # for a thirtieth of a second. This folder has none.
    os.environ.pop("SSL_CERT_FILE", None)
    os.environ["SSL_CERT_DIR"] = str(TESTS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores, because many tests wait for processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests that share an id, and sort the files for pytest-xdist: the slow ones first.

    pytest-xdist runs only one of several tests with an id. A slow file that starts last would keep
    one worker busy while the others have ended.
    """
    twice = [name for name, times in Counter(item.nodeid for item in items).items() if times > 1]
    if twice:
        raise pytest.UsageError(f"Several tests share an id: {', '.join(twice)}")
    if hasattr(config, "workerinput"):
        folders = ("acceptance", "integration", "unit")
        items.sort(key=lambda item: folders.index(item.path.relative_to(TESTS).parts[0]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the ends of the processes' logs to a failure; NotReady has them in its message."""
    report = yield
    if report.failed and not (call.excinfo and call.excinfo.errisinstance(NotReady)):
        report.sections += process_logs(lines=40).items()
    return report


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Redis that lives as long as the test session and keeps nothing."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def key_prefix() -> str:
    """A namespace for one test, so that no test needs to flush Redis."""
    return f"test-{uuid4()}"


@pytest.fixture
def settings(redis_url: str, key_prefix: str) -> Callable[..., Settings]:
    """Makes settings for this test's Redis and namespace; keyword arguments override them."""

    def make(**values: object) -> Settings:
        return Settings.model_validate({"redis_url": redis_url, "key_prefix": key_prefix} | values)

    return make
