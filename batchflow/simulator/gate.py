"""What every call passes: the API key, the outages, the counting, and the shape of errors."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from batchflow.simulator import ids
from batchflow.simulator.errors import ApiError
from batchflow.simulator.faults import Outage
from batchflow.simulator.requests import authenticate
from batchflow.simulator.state import Simulator

#: Carries out one call for an organization.
Handler = Callable[[Simulator, Request, str], Awaitable[Response]]

_GARBAGE = b"<html><body><h1>upstream connect error</h1></body></html>"


class Operation:
    """One operation of the API as an ASGI application."""

    def __init__(self, name: str, handler: Handler) -> None:
        self.name = name
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        simulator: Simulator = request.app.state.simulator
        outage = simulator.faults.strike(self.name, now=time.time())
        try:
            if outage is None:
                await self._reply(await self._act(simulator, request), request, send)
            else:
                await self._suffer(simulator, request, send, outage)
        except ClientDisconnect:
            simulator.count_call(self.name, "disconnected")

    async def _suffer(
        self, simulator: Simulator, request: Request, send: Send, outage: Outage
    ) -> None:
        real: Response | None = None
        if outage.after_acting or outage.answer in ("normal", "cut"):
            real = await self._act(simulator, request)
        elif outage.answer != "drop":
            # A client that is still sending would see a broken pipe instead of the answer.
            async for _ in request.stream():
                pass
        await asyncio.sleep(outage.delay_s)
        match outage.answer:
            case "drop":
                simulator.count_call(self.name, "dropped")
                await _drop(request)
            case "cut" if real is not None:
                simulator.count_call(self.name, "cut")
                await real(request.scope, request.receive, _cutting(request, send))
            case "normal" if real is not None:
                await self._reply(real, request, send)
            case "garbage":
                answer = Response(_GARBAGE, media_type="application/json")
                await self._reply(answer, request, send, outcome="garbage")
            case _:
                await self._reply(_error_answer(outage), request, send)

    async def _reply(
        self, response: Response, request: Request, send: Send, *, outcome: str | None = None
    ) -> None:
        simulator: Simulator = request.app.state.simulator
        # Counted before it is sent: a client that has the answer finds it in the counts.
        simulator.count_call(self.name, outcome or str(response.status_code))
        response.headers["x-request-id"] = ids.new_id("req")
        await response(request.scope, request.receive, send)

    async def _act(self, simulator: Simulator, request: Request) -> Response:
        try:
            organization = authenticate(request, simulator.config)
            return await self._handler(simulator, request, organization)
        except ApiError as error:
            return error.response()


def _error_answer(outage: Outage) -> Response:
    if outage.status == 429:
        error = ApiError(429, "Rate limit reached.", type="requests", code="rate_limit_exceeded")
    elif outage.status >= 500:
        message = "The server is currently overloaded. Please try again later."
        error = ApiError(outage.status, message, type="server_error")
    else:
        error = ApiError(outage.status, "The emulator was told to answer so.")
    response = error.response()
    if outage.retry_after_s is not None:
        response.headers["retry-after"] = f"{outage.retry_after_s:g}"
    return response


def _transport(request: Request) -> asyncio.Transport:
    # `server.Connection` puts it there: ASGI has no way to close a connection.
    return cast(asyncio.Transport, request.state.transport)


async def _until_disconnected(request: Request) -> None:
    # Returning before the server has noticed would make it answer with 500.
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _drop(request: Request) -> None:
    """Close the connection without an answer."""
    _transport(request).abort()
    await _until_disconnected(request)


def _cutting(request: Request, send: Send) -> Send:
    """Send the head of an answer and half of its first part, then close the connection."""
    cut = False

    async def cutting(message: Message) -> None:
        nonlocal cut
        if cut:
            return
        if message["type"] == "http.response.body":
            cut = True
            body = message.get("body", b"")
            await send({**message, "body": body[: len(body) // 2], "more_body": True})
            _transport(request).close()
            await _until_disconnected(request)
            return
        await send(message)

    return cutting
