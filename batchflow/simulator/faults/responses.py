"""What a client receives during an outage instead of the normal response."""

import asyncio
from typing import cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Send

from batchflow.simulator.api_error import ApiError
from batchflow.simulator.faults.outages import Outage

_GARBAGE = b"<html><body><h1>upstream connect error</h1></body></html>"


def error_response(outage: Outage) -> Response:
    """Return the outage's status code as an OpenAI error."""
    if outage.status == 429:
        error = ApiError(429, "Rate limit reached.", type="requests", code="rate_limit_exceeded")
    elif outage.status >= 500:
        message = "The server is currently overloaded. Please try again later."
        error = ApiError(outage.status, message, type="server_error")
    else:
        error = ApiError(outage.status, "The emulator is configured to return this error.")
    response = error.response()
    if outage.retry_after_s is not None:
        response.headers["retry-after"] = f"{outage.retry_after_s:g}"
    return response


def garbage_response() -> Response:
    """Return HTML that is labelled as JSON."""
    return Response(_GARBAGE, media_type="application/json")


async def drop_connection(request: Request) -> None:
    """Close the connection without a response."""
    _transport(request).abort()
    await _wait_for_disconnect(request)


def truncate(request: Request, send: Send) -> Send:
    """Wrap `send`: send the head and half of the first body chunk, then close the connection."""
    truncated = False

    async def send_truncated(message: Message) -> None:
        nonlocal truncated
        if truncated:
            return
        if message["type"] == "http.response.body":
            truncated = True
            body = message.get("body", b"")
            await send({**message, "body": body[: len(body) // 2], "more_body": True})
            _transport(request).close()
            await _wait_for_disconnect(request)
            return
        await send(message)

    return send_truncated


def _transport(request: Request) -> asyncio.Transport:
    # `server.Connection` stores it, because ASGI cannot close a connection.
    return cast(asyncio.Transport, request.state.transport)


async def _wait_for_disconnect(request: Request) -> None:
    # If the application returned before the server notices, the server would send a 500.
    while (await request.receive())["type"] != "http.disconnect":
        pass
