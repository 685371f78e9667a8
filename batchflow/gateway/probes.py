"""Whether the gateway is up, and whether it can do its work."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from batchflow.errors import StoreUnavailable
from batchflow.gateway.context import AppContext
from batchflow.store.records import time

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(context: AppContext) -> JSONResponse:
    """The parts that it needs, and which of them is missing: 503 if Redis doesn't answer.

    Without a webhook secret it is ready all the same: it shows the fleet, and refuses webhooks.
    """
    parts = {"redis": "ok", "webhooks": "ok" if context.settings.webhook_secrets else "no secret"}
    try:
        await context.store.run(time())
    except StoreUnavailable:
        # Anybody may ask, so nothing is said about where Redis is.
        return JSONResponse({"status": "unavailable", **parts, "redis": "no answer"}, 503)
    return JSONResponse({"status": "ok", **parts})
