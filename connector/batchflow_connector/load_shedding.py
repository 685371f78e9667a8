"""Load shedding: what the connector leaves out while very many tasks start at once."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import grpc.aio

#: Above this number of concurrent creates, a create leaves its message to the sweep: sending it
#: costs more than the rest of the create, and Flyte's deadline is ten seconds.
MAX_CREATES_WITH_MESSAGE = 20

#: Calls that wait to be served; gRPC's default is 1,000, beyond which it rejects calls at random.
_GRPC_BACKLOG = 100_000


class CreateLoad:
    """Counts the concurrent creates of one event loop."""

    def __init__(self) -> None:
        self._concurrent = 0

    @contextmanager
    def track(self) -> Iterator[bool]:
        """Count a create while the block runs; yields whether to shed load."""
        self._concurrent += 1
        try:
            yield self._concurrent > MAX_CREATES_WITH_MESSAGE
        finally:
            self._concurrent -= 1


def enlarge_grpc_backlog() -> None:
    """Have gRPC servers of this process queue calls that they cannot serve at once.

    flytekit makes the server and offers no way to pass options to it.
    """
    options = [
        ("grpc.server.max_pending_requests", _GRPC_BACKLOG),
        ("grpc.server.max_pending_requests_hard_limit", _GRPC_BACKLOG),
    ]
    grpc.aio.server = functools.partial(grpc.aio.server, options=options)
