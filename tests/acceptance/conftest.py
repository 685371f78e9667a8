"""One stack of real processes for all acceptance tests."""

import uuid
from collections.abc import Generator, Iterator

import pytest

from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient, Node
from tests.kit.stack import Stack

_STACK = pytest.StashKey[Stack]()


@pytest.fixture(scope="session")
def running_stack(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Stack]:
    """All processes, for the whole session."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    request.config.stash[_STACK] = stack
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def stack(running_stack: Stack) -> Iterator[Stack]:
    """All processes; what a test breaks works again after it."""
    yield running_stack
    running_stack.heal()


@pytest.fixture
def emulator(stack: Stack) -> Emulator:
    """What plays OpenAI."""
    return stack.emulator


@pytest.fixture
def flyte(stack: Stack) -> FlyteClient:
    """What plays Flyte's backend."""
    return stack.flyte


@pytest.fixture
def org() -> str:
    """An organization at OpenAI that has nothing yet, and a credential that nobody else uses."""
    return f"org-{uuid.uuid4().hex}"


@pytest.fixture
def node(stack: Stack) -> Node:
    """Where a task runs."""
    folder = stack.blobs / uuid.uuid4().hex[:12]
    folder.mkdir()
    return Node(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the ends of the logs to a failure."""
    report = yield
    stack = item.config.stash.get(_STACK, None)
    if report.failed and stack is not None:
        for process in stack.processes:
            if process.log_path.exists():
                report.sections.append((f"log of {process.name}", process.tail()))
    return report
