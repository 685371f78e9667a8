"""The emulator as a running server."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from batchflow.simulator.app import create_app
from batchflow.simulator.config import SimulatorConfig

#: How long requests that are under way may go on when the server ends.
_GRACE_S = 2
#: Connections that wait to be accepted.
_BACKLOG = 2048


class Connection(H11Protocol):
    """Puts the connection into the request's state, so that an outage can close it."""

    def connection_made(  # type: ignore[override]  # as in the class above: only TCP comes here
        self, transport: asyncio.Transport
    ) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, *args: object, **kwargs: object) -> None:
        await super().startup()
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://{_reachable(host)}:{port}/v1")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End quietly; the second SIGINT doesn't wait for requests under way."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _reachable(host: str) -> str:
    """The host under which a client on this machine reaches a listening address."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def serve(
    *, host: str, port: int, config: SimulatorConfig, on_ready: Callable[[str], None]
) -> None:
    """Run the emulator until SIGINT or SIGTERM.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        config: How it behaves at first.
        on_ready: Called with the base URL, `http://127.0.0.1:PORT/v1`, once it listens.

    Raises:
        SystemExit: It can't listen there.
    """
    settings = uvicorn.Config(
        create_app(config),
        host=host,
        port=port,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE_S,
    )
    _Server(settings, on_ready).run()
