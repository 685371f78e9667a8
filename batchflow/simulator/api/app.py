"""The emulator as an ASGI application."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from batchflow.simulator.api import batches, control, files
from batchflow.simulator.api import webhook_endpoints as webhooks
from batchflow.simulator.api.operation import ApiOperation, Handler
from batchflow.simulator.api_error import ApiError
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine.state import SimulatorState

_FILE = "/files/{id}"
_BATCH = "/batches/{id}"
_ENDPOINT = "/webhook_endpoints/{id}"

_OPERATIONS: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/files", "files.create", files.create),
    ("GET", "/files", "files.list", files.list_),
    ("GET", _FILE, "files.retrieve", files.retrieve),
    ("GET", f"{_FILE}/content", "files.content", files.content),
    ("DELETE", _FILE, "files.delete", files.delete),
    ("POST", "/batches", "batches.create", batches.create),
    ("GET", "/batches", "batches.list", batches.list_),
    ("GET", _BATCH, "batches.retrieve", batches.retrieve),
    ("POST", f"{_BATCH}/cancel", "batches.cancel", batches.cancel),
    ("POST", "/webhook_endpoints", "webhooks.create", webhooks.create),
    ("GET", "/webhook_endpoints", "webhooks.list", webhooks.list_),
    ("GET", _ENDPOINT, "webhooks.retrieve", webhooks.retrieve),
    ("POST", _ENDPOINT, "webhooks.update", webhooks.update),
    ("DELETE", _ENDPOINT, "webhooks.delete", webhooks.delete),
    ("POST", f"{_ENDPOINT}/rotate_secret", "webhooks.rotate_secret", webhooks.rotate_secret),
    ("POST", f"{_ENDPOINT}/test", "webhooks.test", webhooks.test),
    ("GET", "/webhook_event_types", "webhooks.event_types", webhooks.event_types),
)


def create_app(config: SimulatorConfig) -> Starlette:
    """Return an emulator; its state exists until the application shuts down."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="batchflow-simulator-") as directory:
            state = SimulatorState(config, Path(directory))
            app.state.simulator = state
            try:
                yield
            finally:
                await state.close()

    api = [
        Route(path, ApiOperation(name, handler), methods=[method])
        for method, path, name, handler in _OPERATIONS
    ]
    return Starlette(
        routes=[Mount("/v1", routes=api), Mount("/simulator", routes=control.ROUTES)],
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _routing_error,
            ClientDisconnect: _client_disconnected,
            Exception: _server_error,
        },
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class
    return error.response()


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    method, path = request.method, request.url.path[:200]
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}."
        return ApiError(405, message, code="method_not_supported").response()
    return ApiError(error.status_code, f"Invalid URL ({method} {path})").response()


async def _client_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client no longer reads it


async def _server_error(request: Request, error: Exception) -> Response:
    message = "The server had an error while processing your request. Sorry about that!"
    return ApiError(500, message, type="server_error").response()
