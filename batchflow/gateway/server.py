"""The gateway as a running server, and the ``gateway`` command that starts it."""

import logging
import signal
from collections.abc import Callable, Sequence
from socket import socket
from types import FrameType

import click
import uvicorn
from fastapi import FastAPI

from batchflow.errors import InvalidSettings
from batchflow.gateway.api.event_stream import end_streams
from batchflow.gateway.app import make_gateway
from batchflow.hosts import is_loopback
from batchflow.settings import load_settings

#: How long requests that are under way may go on when the gateway ends.
_GRACE_S = 2


class Server(uvicorn.Server):
    """The server of a gateway.

    ``proxies`` are addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are
    believed; from anybody else they are whatever a client claims. ``on_ready`` is called with the
    address, ``http://127.0.0.1:<port>``, once the gateway listens.
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
                # It would have the query, and people search for what they like.
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
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """End, the streams first: it would wait for them, and they never end by themselves."""
        end_streams(self._app)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End quietly; the second SIGINT doesn't wait for requests under way."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a reverse proxy that may name the client and the scheme in "
    "X-Forwarded-For and X-Forwarded-Proto; can be repeated.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged to stderr.",
)
def gateway(host: str, port: int, proxies: tuple[str, ...], log_level: str) -> None:
    """Run the webhook receiver, the status API, the status page and the metrics.

    It listens on this machine alone, or needs BATCHFLOW_API_TOKEN. It runs until it is interrupted.
    """
    settings = load_settings()
    if settings.api_token is None and not is_loopback(host):
        raise InvalidSettings(
            f"Others can reach {host}, so the gateway needs a token there. Set "
            "BATCHFLOW_API_TOKEN to at least 16 random characters, or listen on 127.0.0.1."
        )
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    Server(make_gateway(settings), host=host, port=port, proxies=proxies, on_ready=_announce).run()


def _announce(url: str) -> None:
    click.echo(f"Gateway ready: {url}")
