"""Rate limits by client address, counted in this process."""

import ipaddress
import math
import time
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Depends, Request
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from batchflow.gateway.error_responses import error_response
from batchflow.gateway.security.access import MACHINE_PATHS

#: Requests of any kind. People behind one proxy look like one client, each with a page that reloads
#: itself.
REQUESTS: Final = RateLimitItemPerSecond(200, namespace="requests")
#: Attempts to log in.
LOGINS: Final = RateLimitItemPerMinute(10, namespace="logins")
#: Invalid webhooks that are logged and counted.
INVALID_DELIVERIES: Final = RateLimitItemPerMinute(60, namespace="invalid-deliveries")

#: One client usually has all IPv6 addresses with the same prefix of this length.
_IPV6_PREFIX_BITS: Final = 64


class RateLimiter:
    """Counts requests of clients."""

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def wait_s(self, limit: RateLimitItem, request: Request) -> int:
        """Count a request; returns 0 if it is within the limit, otherwise the seconds to wait."""
        client = _client(request)
        if await self._limiter.hit(limit, client):
            return 0
        ends_s, _ = await self._limiter.get_window_stats(limit, client)
        return max(1, math.ceil(ends_s - time.time()))


class RateLimitMiddleware:
    """ASGI middleware that limits the requests of each client. Webhooks and probes are exempt."""

    def __init__(self, app: ASGIApp, limiter: RateLimiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and scope["path"] not in MACHINE_PATHS:
            wait_s = await self._limiter.wait_s(REQUESTS, Request(scope))
            if wait_s:
                response = error_response(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"Too many requests. Try again in {wait_s} s.",
                    {"Retry-After": str(wait_s)},
                )
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _of(request: Request) -> RateLimiter:
    limiter: RateLimiter = request.app.state.rate_limiter
    return limiter


#: For a route's parameter: ``rates: AppRates``.
AppRateLimiter = Annotated[RateLimiter, Depends(_of)]


def _client(request: Request) -> str:
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
