"""Redis URLs: one for our own client and for Celery's.

They are parsed by hand, because redis-py has no URL for a master under Sentinel, and kombu has
another one.

``redis://``, ``rediss://`` (TLS) and ``unix://`` are redis-py's. A Redis under Sentinel is::

    sentinel://[[user]:password@]host:26379,host:26379/<master name>[/<db>][?sentinel_password=...]

An IPv6 address is in brackets, and special characters of a password are percent-encoded. No error
contains a URL: it may contain a password.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry

from batchflow.errors import InvalidSettings

_SENTINEL_PORT = 26379
_SENTINEL_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class SentinelAddress:
    """A master under Sentinel."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int
    username: str | None
    password: str | None
    sentinel_password: str | None

    @property
    def sentinel_options(self) -> dict[str, Any]:
        """Options of the connections to Sentinels: if one is unavailable, the next is tried."""
        options: dict[str, Any] = {
            "socket_timeout": _SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
            # By default, redis-py would try a dead one for ten seconds.
            "retry": Retry(NoBackoff(), 0),
        }
        return options | ({"password": self.sentinel_password} if self.sentinel_password else {})


def is_sentinel(url: str) -> bool:
    """Whether the URL is for a master under Sentinel."""
    return url.startswith("sentinel://")


def check_redis_url(url: str) -> None:
    """Raise InvalidSettings, without the URL, unless it is a valid Redis URL."""
    if is_sentinel(url):
        parse_sentinel(url)
        return
    with _refusing_as(
        "BATCHFLOW_REDIS_URL is not a valid Redis URL. Its form is "
        "redis://:password@host:6379/0, or it begins with rediss://, unix:// or sentinel://."
    ):
        parts = urlsplit(url)
        if parts.scheme != "unix" and not (
            parts.scheme in ("redis", "rediss") and _has_valid_location(parts)
        ):
            raise ValueError


def parse_sentinel(url: str) -> SentinelAddress:
    """Parse a ``sentinel://`` URL; raises InvalidSettings, without the URL."""
    with _refusing_as(
        "BATCHFLOW_REDIS_URL is not a valid Sentinel URL. Its form is "
        "sentinel://:password@host:26379,host:26379/master-name/0."
    ):
        parts = urlsplit(url)
        user_info, _, hosts = parts.netloc.rpartition("@")
        username, _, password = user_info.partition(":")
        master, _, db = parts.path.strip("/").partition("/")
        if not master:
            raise ValueError
        return SentinelAddress(
            sentinels=tuple(_host(host) for host in hosts.split(",")),
            master=unquote(master),
            db=int(db or 0),
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_password=parse_qs(parts.query).get("sentinel_password", [None])[0],
        )


def broker(url: str) -> tuple[str, dict[str, Any]]:
    """The URL in Celery's form, and the transport options that belong to it."""
    if not is_sentinel(url):
        # Celery accepts several, for when one is unavailable.
        return ";".join(map(_plain_broker, url.split(";"))), {}
    address = parse_sentinel(url)
    user_info = ""
    if address.password:
        user_info = f"{quote(address.username or '', '')}:{quote(address.password, '')}@"
    urls = (
        f"sentinel://{user_info}{f'[{host}]' if ':' in host else host}:{port}/{address.db}"
        for host, port in address.sentinels
    )
    return ";".join(urls), {
        "master_name": address.master,
        "sentinel_kwargs": address.sentinel_options,
    }


def _plain_broker(url: str) -> str:
    with _refusing_as(
        "Celery's broker URL is not valid. Check BATCHFLOW_BROKER_URL, or BATCHFLOW_REDIS_URL if "
        "that is not set."
    ):
        parts = urlsplit(url)
        if not _has_valid_location(parts) and parts.scheme in ("redis", "rediss"):
            raise ValueError
    query = parse_qs(parts.query)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in query:
        # By default, kombu would accept any certificate.
        return f"{url}{'&' if parts.query else '?'}ssl_cert_reqs=required"
    if parts.scheme == "unix":
        # kombu's form.
        db = query.get("db", ["0"])[0]
        return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={db}"
    return url


@contextmanager
def _refusing_as(message: str) -> Iterator[None]:
    """Raise InvalidSettings in place of a ValueError, whose message may contain the URL."""
    try:
        yield
    except ValueError:
        advice = "Percent-encode special characters of a password."
        raise InvalidSettings(f"{message} {advice}") from None


def _has_valid_location(parts: SplitResult) -> bool:
    """Whether a URL has a valid port and database; raises ValueError for some that it has not."""
    db = parts.path.strip("/")
    return parts.port != 0 and (not db or db.isdecimal())


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or _SENTINEL_PORT
