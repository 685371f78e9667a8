"""One operation of OpenAI's API: authentication, outages, call counts, and the error format."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from batchflow.simulator.api.request_reading import authenticate
from batchflow.simulator.api_error import ApiError
from batchflow.simulator.engine import ids
from batchflow.simulator.engine.state import SimulatorState
from batchflow.simulator.faults.outages import Outage
from batchflow.simulator.faults.responses import (
    drop_connection,
    error_response,
    garbage_response,
    truncate,
)

#: Handles a call; the last argument is the caller's organization.
Handler = Callable[[SimulatorState, Request, str], Awaitable[Response]]


class ApiOperation:
    """An operation as an ASGI application; `name` is its method in OpenAI's SDK."""

    def __init__(self, name: str, handler: Handler) -> None:
        self.name = name
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        state: SimulatorState = request.app.state.simulator
        outage = state.outages.match(self.name, now=time.time())
        try:
            if outage is None:
                await self._send(await self._handle(state, request), request, send)
            else:
                await self._apply_outage(state, request, send, outage)
        except ClientDisconnect:
            state.calls[self.name]["disconnected"] += 1

    async def _apply_outage(
        self, state: SimulatorState, request: Request, send: Send, outage: Outage
    ) -> None:
        normal: Response | None = None
        if outage.acts_after_s:
            # Read first: nothing can be read from a client that has left.
            await request.body()
            await asyncio.sleep(outage.acts_after_s)
        if outage.after_acting or outage.answer in ("normal", "cut"):
            normal = await self._handle(state, request)
        elif outage.answer != "drop":
            # A client that is still sending would see a broken pipe instead of the response.
            async for _ in request.stream():
                pass
        await asyncio.sleep(outage.delay_s)
        match outage.answer:
            case "drop":
                state.calls[self.name]["dropped"] += 1
                await drop_connection(request)
            case "cut" if normal is not None:
                state.calls[self.name]["cut"] += 1
                await normal(request.scope, request.receive, truncate(request, send))
            case "normal" if normal is not None:
                await self._send(normal, request, send)
            case "garbage":
                await self._send(garbage_response(), request, send, outcome="garbage")
            case _:
                await self._send(error_response(outage), request, send)

    async def _send(
        self, response: Response, request: Request, send: Send, *, outcome: str | None = None
    ) -> None:
        state: SimulatorState = request.app.state.simulator
        # Count first: a client that has the response must find it in the statistics.
        state.calls[self.name][outcome or str(response.status_code)] += 1
        response.headers["x-request-id"] = ids.new_id("req")
        await response(request.scope, request.receive, send)

    async def _handle(self, state: SimulatorState, request: Request) -> Response:
        try:
            organization = authenticate(request, state.config)
            return await self._handler(state, request, organization)
        except ApiError as error:
            return error.response()
