"""The gateway as a running server."""

import signal
from collections.abc import Callable, Sequence
from socket import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

#: How long running requests may take when the gateway stops.
_GRACE_S = 2


class Server(uvicorn.Server):
    """The server of a gateway.

    ``proxies`` are addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are
    trusted; from other clients these headers are ignored. ``on_ready`` is called with the URL,
    ``http://127.0.0.1:<port>``, once the gateway listens.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        host: str,
        port: int,
        proxies: Sequence[str] = (),
        on_ready: Callable[[str], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                ws="none",
                lifespan="on",
                log_config=None,
                # It would contain queries, in which people search for anything.
                access_log=False,
                server_header=False,
                proxy_headers=bool(proxies),
                forwarded_allow_ips=list(proxies),
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._app = app
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, and call ``on_ready``."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop; the event streams first, for which uvicorn would wait forever."""
        self._app.state.event_fanout.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop without a traceback; a second SIGINT does not wait for running requests."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
