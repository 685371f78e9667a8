"""Where Redis is: one URL for our own client and for Celery's.

``redis://``, ``rediss://`` (TLS) and ``unix://`` are redis-py's. A Redis under Sentinel is::

    sentinel://[[user]:password@]host:26379,host:26379/<master name>[/<db>][?sentinel_password=...]
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from batchflow.errors import InvalidSettings

_SENTINEL_PORT = 26379


@dataclass(frozen=True)
class SentinelAddress:
    """A master that Sentinels know by name."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int
    username: str | None
    password: str | None
    sentinel_password: str | None

    @property
    def sentinel_options(self) -> dict[str, Any]:
        """How to talk to the Sentinels themselves."""
        return {"password": self.sentinel_password} if self.sentinel_password else {}


def is_sentinel(url: str) -> bool:
    """Whether the URL names a master under Sentinel."""
    return url.startswith("sentinel://")


def parse_sentinel(url: str) -> SentinelAddress:
    """Take a ``sentinel://`` URL apart; raises InvalidSettings, without the URL."""
    parts = urlsplit(url)
    user_info, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user_info.partition(":")
    master, _, db = parts.path.strip("/").partition("/")
    query = parse_qs(parts.query)
    try:
        sentinels = tuple(_host(host) for host in hosts.split(","))
        address = SentinelAddress(
            sentinels=sentinels,
            master=unquote(master),
            db=int(db or 0),
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_password=query.get("sentinel_password", [None])[0],
        )
    except ValueError:
        address = None
    if address is None or not address.master:
        raise InvalidSettings(
            "BATCHFLOW_REDIS_URL is no Sentinel URL. It has the form "
            "sentinel://:password@host:26379,host:26379/master-name/0."
        )
    return address


def broker(url: str) -> tuple[str, dict[str, Any]]:
    """The URL as Celery takes it, and the transport options that it needs beside it."""
    if not is_sentinel(url):
        return url, {}
    address = parse_sentinel(url)
    user_info = ""
    if address.password:
        user_info = f"{quote(address.username or '', '')}:{quote(address.password, '')}@"
    urls = (f"sentinel://{user_info}{host}:{port}/{address.db}" for host, port in address.sentinels)
    return ";".join(urls), {
        "master_name": address.master,
        "sentinel_kwargs": address.sentinel_options,
    }


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "")
    if not host:
        raise ValueError(text)
    return host, int(port or _SENTINEL_PORT)
