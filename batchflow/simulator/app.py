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

from batchflow.simulator import api_batches, api_files, api_webhooks, control
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.errors import ApiError
from batchflow.simulator.gate import Handler, Operation
from batchflow.simulator.state import Simulator

_FILE = "/files/{file_id}"
_BATCH = "/batches/{batch_id}"
_ENDPOINT = "/webhook_endpoints/{endpoint_id}"

_OPERATIONS: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/files", "files.create", api_files.create),
    ("GET", "/files", "files.list", api_files.list_),
    ("GET", _FILE, "files.retrieve", api_files.retrieve),
    ("GET", f"{_FILE}/content", "files.content", api_files.content),
    ("DELETE", _FILE, "files.delete", api_files.delete),
    ("POST", "/batches", "batches.create", api_batches.create),
    ("GET", "/batches", "batches.list", api_batches.list_),
    ("GET", _BATCH, "batches.retrieve", api_batches.retrieve),
    ("POST", f"{_BATCH}/cancel", "batches.cancel", api_batches.cancel),
    ("POST", "/webhook_endpoints", "webhooks.create", api_webhooks.create),
    ("GET", "/webhook_endpoints", "webhooks.list", api_webhooks.list_),
    ("GET", _ENDPOINT, "webhooks.retrieve", api_webhooks.retrieve),
    ("POST", _ENDPOINT, "webhooks.update", api_webhooks.update),
    ("DELETE", _ENDPOINT, "webhooks.delete", api_webhooks.delete),
    ("POST", f"{_ENDPOINT}/rotate_secret", "webhooks.rotate_secret", api_webhooks.rotate_secret),
    ("POST", f"{_ENDPOINT}/test", "webhooks.test", api_webhooks.test),
    ("GET", "/webhook_event_types", "webhooks.event_types", api_webhooks.event_types),
)


def create_app(config: SimulatorConfig) -> Starlette:
    """An emulator with its own state, which lives as long as the application runs."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="batchflow-simulator-") as directory:
            simulator = Simulator(config, Path(directory))
            app.state.simulator = simulator
            try:
                yield
            finally:
                await simulator.close()

    api = [
        Route(path, Operation(name, handler), methods=[method])
        for method, path, name, handler in _OPERATIONS
    ]
    return Starlette(
        routes=[Mount("/v1", routes=api), Mount("/simulator", routes=control.ROUTES)],
        lifespan=lifespan,
        exception_handlers={
            ApiError: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _gone,
            Exception: _defect,
        },
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - what it is registered for
    return error.response()


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    method, path = request.method, request.url.path[:200]
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}."
        return ApiError(405, message, code="method_not_supported").response()
    return ApiError(error.status_code, f"Invalid URL ({method} {path})").response()


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _defect(request: Request, error: Exception) -> Response:
    message = "The server had an error while processing your request. Sorry about that!"
    return ApiError(500, message, type="server_error").response()
