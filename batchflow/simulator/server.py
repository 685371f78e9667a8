"""The emulator's HTTP server."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from batchflow.simulator.api.app import create_app
from batchflow.simulator.config import SimulatorConfig

#: How long the server waits for open requests at shutdown, in seconds.
_SHUTDOWN_TIMEOUT_S = 2
#: The maximum number of connections that wait to be accepted.
_BACKLOG = 2048


class Connection(H11Protocol):
    """Stores the transport in the request's state, so that an outage can close the connection."""

    def connection_made(  # type: ignore[override]  # as in the base class: only TCP is used
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
        """Shut down; a second SIGINT does not wait for open requests."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _reachable(host: str) -> str:
    """Return the host that a client on this machine connects to."""
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
        config: The initial settings.
        on_ready: Called with the base URL, `http://127.0.0.1:PORT/v1`, once it listens.

    Raises:
        SystemExit: The address is not available.
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
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
    )
    _Server(settings, on_ready).run()
