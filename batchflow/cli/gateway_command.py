"""``batchflow gateway``: run the gateway's server."""

import logging

import click

from batchflow.errors import InvalidSettings
from batchflow.gateway.app import make_gateway
from batchflow.gateway.server import Server
from batchflow.hosts import is_loopback
from batchflow.settings import load_settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on, or 0 for a free one.",
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a reverse proxy that may name the client and the scheme in "
    "X-Forwarded-For and X-Forwarded-Proto. Repeatable.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Level of the log on stderr.",
)
def gateway(host: str, port: int, proxies: tuple[str, ...], log_level: str) -> None:
    """Run the webhook receiver, the status API, the status page and the metrics.

    BATCHFLOW_API_TOKEN is required to listen on other addresses than the loopback.
    """
    settings = load_settings()
    if settings.api_token is None and not is_loopback(host):
        raise InvalidSettings(
            f"The gateway needs a token to listen on {host}, which other machines can reach. Set "
            "BATCHFLOW_API_TOKEN to at least 16 random characters, or listen on 127.0.0.1."
        )
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    Server(
        make_gateway(settings),
        host=host,
        port=port,
        proxies=proxies,
        on_ready=lambda url: click.echo(f"Gateway ready: {url}"),
    ).run()
