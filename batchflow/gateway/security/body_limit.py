"""How much a client may send."""

from http import HTTPStatus
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: A webhook has a few hundred bytes, a form of ours as many.
MAX_BODY_BYTES: Final = 65_536
#: Digits that tell a number from one that is far too large.
_LONGEST_NUMBER = 18


class BodyLimitMiddleware:
    """ASGI middleware that keeps routes from reading a larger body, announced or not: whoever goes
    on reading gets HTTPException. With the answer the connection ends, or the server would go on
    to take what comes and throw it away."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_announced = _announced(headers) > MAX_BODY_BYTES
        has_rest = is_announced or "transfer-encoding" in headers
        left = MAX_BODY_BYTES

        async def receive_within_limit() -> Message:
            nonlocal has_rest, left
            message = {} if is_announced else await receive()
            left -= len(message.get("body", b""))
            if is_announced or left < 0:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"A body may have {MAX_BODY_BYTES:,} bytes at most.",
                )
            has_rest = has_rest and message.get("more_body", False)
            return message

        async def send_and_hang_up(message: Message) -> None:
            if message["type"] == "http.response.start" and has_rest:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive_within_limit, send_and_hang_up)


def _announced(headers: Headers) -> int:
    length = headers.get("content-length", "")[:_LONGEST_NUMBER]
    return int(length) if length.isdecimal() else 0
