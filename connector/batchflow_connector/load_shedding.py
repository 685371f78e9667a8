"""What to do when very many tasks begin at once."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import grpc.aio

#: With so many creates under way, the next ones leave it to the sweep to send their messages: a
#: message costs more than the whole rest of a create, and Flyte waits ten seconds.
MANY = 20

#: Calls that wait to be taken up. gRPC's own limit is 1,000, beyond which it refuses by chance.
_MOST_PENDING = 100_000


class Rush:
    """Counts the creates that are under way in one event loop."""

    def __init__(self) -> None:
        self._under_way = 0

    @contextmanager
    def one_more(self) -> Iterator[bool]:
        """For the time of a create; yields whether many others are under way."""
        self._under_way += 1
        try:
            yield self._under_way > MANY
        finally:
            self._under_way -= 1


def let_calls_wait() -> None:
    """Have gRPC servers of this process keep calls that come faster than they are answered.

    flytekit makes the server, and has no option for its options.
    """
    options = [
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
    ]
    grpc.aio.server = functools.partial(grpc.aio.server, options=options)
