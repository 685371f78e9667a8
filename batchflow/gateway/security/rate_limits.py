"""How often a client may do what: counted in this process, by address."""

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

#: Requests of any kind. Many people behind one proxy look like one client, each with a page that
#: updates itself.
REQUESTS: Final = RateLimitItemPerSecond(200, namespace="requests")
#: Tries to log in.
LOGINS: Final = RateLimitItemPerMinute(10, namespace="logins")
#: Webhooks with a wrong signature that are worth a line in the log and a count in Redis.
BAD_DELIVERIES: Final = RateLimitItemPerMinute(60, namespace="bad-deliveries")

#: What one household or machine has of IPv6 addresses.
_IPV6_PREFIX_BITS: Final = 64


class RateLimiter:
    """Counts what clients do."""

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def wait_s(self, limit: RateLimitItem, request: Request) -> int:
        """Count one more; 0 if it is within the limit, else how many seconds to wait."""
        client = _client(request)
        if await self._limiter.hit(limit, client):
            return 0
        ends_s, _ = await self._limiter.get_window_stats(limit, client)
        return max(1, math.ceil(ends_s - time.time()))


class RateLimitMiddleware:
    """ASGI middleware that refuses a client's requests when they are too many. No genuine webhook
    is dropped, and no probe answered otherwise than it should be."""

    def __init__(self, app: ASGIApp, rate_limiter: RateLimiter) -> None:
        self._app = app
        self._rates = rate_limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"] not in MACHINE_PATHS:
            wait_s = await self._rates.wait_s(REQUESTS, Request(scope))
            if wait_s:
                answer = error_response(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"Too many requests. Try again in {wait_s} s.",
                    {"Retry-After": str(wait_s)},
                )
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _of(request: Request) -> RateLimiter:
    rate_limiter: RateLimiter = request.app.state.rate_limiter
    return rate_limiter


#: For a route's parameter: ``rate_limiter: AppRateLimiter``.
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
