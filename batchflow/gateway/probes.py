"""Liveness and readiness of the gateway."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from batchflow.errors import StoreUnavailable
from batchflow.gateway.connections import AppConnections
from batchflow.store.records import time

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(connections: AppConnections) -> JSONResponse:
    """The parts that the gateway needs, and which one is missing: 503 if Redis does not answer.

    Without a webhook secret the gateway is ready: it shows the fleet, and refuses webhooks.
    """
    parts = {
        "redis": "ok",
        "webhooks": "ok" if connections.settings.webhook_secrets else "no secret",
    }
    try:
        await connections.store.run(time())
    except StoreUnavailable:
        # The request needs no token, so the response does not say where Redis is.
        return JSONResponse({"status": "unavailable", **parts, "redis": "no answer"}, 503)
    return JSONResponse({"status": "ok", **parts})
