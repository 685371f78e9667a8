"""The origin of a request: a page of the gateway, or another site in the same browser."""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

_HOST = re.compile(
    r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(:(?P<port>[0-9]{1,5}))?", re.ASCII
)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Host:
    """The ``Host`` header of a request."""

    name: str
    #: Empty for the default of the scheme.
    port: str

    @classmethod
    def of(cls, headers: Headers) -> "Host | None":
        """None unless there is exactly one, and it is well-formed."""
        hosts = headers.getlist("host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        return cls((match["ipv6"] or match["name"]).lower(), match["port"] or "") if match else None


def is_from_other_site(method: str, headers: Headers, public_url: str | None) -> bool:
    """Whether a browser sent this for a page of another site, and it may change something.

    Browsers say so in Sec-Fetch-Site, older ones in Origin; other clients send neither. Go's
    ``http.CrossOriginProtection`` does the same.
    """
    if method in _SAFE_METHODS:
        return False
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    if origin := headers.get("origin"):
        # A proxy may use another name for the gateway than the browser uses for the proxy.
        ours = {headers.get("host"), _authority(public_url or "")}
        return _authority(origin) not in ours - {"", None}
    return False


def is_browser(headers: Headers) -> bool:
    """Whether a request that is not a plain GET comes from a browser."""
    return "sec-fetch-site" in headers or "origin" in headers


def same_host(url: str, headers: Headers) -> bool:
    """Whether the request is for the host of this URL."""
    return _authority(url) == headers.get("host")


def _authority(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
