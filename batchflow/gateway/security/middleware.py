"""What every request passes before its route, so that no route can miss it: a limit for the size of
its body, a rate limit, and authentication."""

from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlencode

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchflow.gateway.error_responses import error_response
from batchflow.gateway.security.access import (
    MACHINE_PATHS,
    OPEN_FOLDER,
    OPEN_PATHS,
    PRINCIPAL_KEY,
    Access,
)
from batchflow.gateway.security.rate_limit import REQUESTS, RateLimiter

#: A webhook has a few hundred bytes, and so has a form.
MAX_BODY_BYTES: Final = 65_536
#: A number with more digits is too large in any case.
_MAX_DIGITS = 18


class BodyLimitMiddleware:
    """ASGI middleware that raises HTTPException when a route reads a larger body, announced or not.

    The connection is closed after the response; otherwise, the server would receive the rest of the
    body and discard it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_announced = _announced_bytes(headers) > MAX_BODY_BYTES
        has_rest = is_announced or "transfer-encoding" in headers
        left = MAX_BODY_BYTES

        async def receive_within_limit() -> Message:
            nonlocal has_rest, left
            message = {} if is_announced else await receive()
            left -= len(message.get("body", b""))
            if is_announced or left < 0:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"The body is larger than {MAX_BODY_BYTES:,} bytes.",
                )
            has_rest = has_rest and message.get("more_body", False)
            return message

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and has_rest:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive_within_limit, send_and_close)


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


class AuthMiddleware:
    """ASGI middleware that refuses unauthorized requests, and gives routes the sender."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            self._access.check(request)
        except HTTPException as refusal:
            await error_response(refusal.status_code, refusal.detail)(scope, receive, send)
            return
        principal = self._access.principal(request)
        if not self._access.is_authorized(principal) and not _is_open(scope["path"]):
            await _ask_for_token(request)(scope, receive, send)
            return
        before = principal.session

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start" and principal.session != before:
                self._access.set_session_cookie(
                    request, principal.session, MutableHeaders(scope=message)
                )
            await send(message)

        scope[PRINCIPAL_KEY] = principal
        await self._app(scope, receive, send_with_session)


def _announced_bytes(headers: Headers) -> int:
    length = headers.get("content-length", "")[:_MAX_DIGITS]
    return int(length) if length.isdecimal() else 0


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _ask_for_token(request: Request) -> Response:
    """The login page for people, 401 for programs."""
    if "text/html" not in request.headers.get("accept", ""):
        return error_response(
            HTTPStatus.UNAUTHORIZED,
            "This needs a token: Authorization: Bearer <BATCHFLOW_API_TOKEN>.",
            {"WWW-Authenticate": "Bearer"},
        )
    wanted = ""
    if request.method == "GET":
        query = request.scope["query_string"].decode("latin-1")
        wanted = quote(request.scope["path"]) + (f"?{query}" if query else "")
    next_ = f"?{urlencode({'next': wanted})}" if wanted not in ("", "/") else ""
    return RedirectResponse(f"/login{next_}", HTTPStatus.SEE_OTHER)
