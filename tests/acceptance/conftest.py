"""Fixtures of the acceptance tests: one stack of real processes for all of them."""

import uuid
from collections.abc import Iterator

import pytest

from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient, Node
from tests.kit.flyte_tasks import TaskStarter
from tests.kit.stack import Stack


@pytest.fixture(scope="session")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All processes, for the whole session."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def stack(running_stack: Stack) -> Iterator[Stack]:
    """All processes; what a test breaks is repaired after it."""
    yield running_stack
    running_stack.heal()


@pytest.fixture
def emulator(stack: Stack) -> Emulator:
    """The emulator of OpenAI."""
    return stack.emulator


@pytest.fixture
def flyte(stack: Stack) -> FlyteClient:
    """A client of the connector, as Flyte's backend is one."""
    return stack.flyte


@pytest.fixture
def org() -> str:
    """An organization at OpenAI without batches and files, and so a credential for one test."""
    return f"org-{uuid.uuid4().hex}"


@pytest.fixture
def node(stack: Stack) -> Node:
    """The node of an execution in which a task runs."""
    folder = stack.blobs / uuid.uuid4().hex[:12]
    folder.mkdir()
    return Node(folder)


@pytest.fixture
def start(flyte: FlyteClient, emulator: Emulator, org: str, node: Node) -> TaskStarter:
    """Starts tasks at that node, of an organization of their own."""
    return TaskStarter(flyte, emulator, org, node)
