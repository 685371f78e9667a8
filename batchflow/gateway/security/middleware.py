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


class AccessMiddleware:
    """ASGI middleware that refuses too many requests and unauthorized ones, and gives routes the
    sender. Webhooks and probes have no rate limit."""

    def __init__(self, app: ASGIApp, access: Access, limiter: RateLimiter) -> None:
        self._app = app
        self._access = access
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, path = Request(scope), scope["path"]
        try:
            if path not in MACHINE_PATHS:
                await self._limiter.check(REQUESTS, request)
            self._access.check(request)
        except HTTPException as refusal:
            response = error_response(refusal.status_code, refusal.detail, refusal.headers)
            await response(scope, receive, send)
            return
        principal = self._access.principal(request)
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
        if not is_open and not self._access.is_authorized(principal):
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
