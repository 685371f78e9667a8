"""Rate limits by client address; each process counts its own requests."""

import ipaddress
import math
import time
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import HTTPException, Request
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from batchflow.gateway.connections import from_app

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

    async def check(
        self, limit: RateLimitItem, request: Request, *, what: str = "requests"
    ) -> None:
        """Count a request; raises HTTPException if it is above the limit."""
        if wait_s := await self.wait_s(limit, request):
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"Too many {what}. Try again in {wait_s} s.",
                {"Retry-After": str(wait_s)},
            )


#: For a route's parameter: ``limiter: AppRateLimiter``.
AppRateLimiter = Annotated[RateLimiter, from_app("rate_limiter")]


def _client(request: Request) -> str:
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
