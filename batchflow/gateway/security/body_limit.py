"""A limit for the size of request bodies."""

from http import HTTPStatus
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


def _announced_bytes(headers: Headers) -> int:
    length = headers.get("content-length", "")[:_MAX_DIGITS]
    return int(length) if length.isdecimal() else 0
