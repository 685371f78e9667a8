"""The app: its routes and what surrounds them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from batchflow.gateway import health, webhooks
from batchflow.gateway.backend import Backend
from batchflow.gateway.errors import install_errors
from batchflow.gateway.guard.access import Access
from batchflow.gateway.guard.bodies import BodyLimit
from batchflow.gateway.guard.gate import Gate
from batchflow.gateway.guard.headers import StrictHeaders
from batchflow.gateway.guard.rates import RateLimit, Rates
from batchflow.gateway.metering import metrics
from batchflow.gateway.page import login, pages
from batchflow.gateway.page.templating import static_files
from batchflow.gateway.signature import parse_secrets
from batchflow.gateway.status import api, stream
from batchflow.queue import Sender, make_app
from batchflow.settings import Settings
from batchflow.store import connect_async

logger = logging.getLogger(__name__)


def make_gateway(settings: Settings) -> FastAPI:
    """The gateway; nothing is connected before it starts. Raises InvalidSettings."""
    access, rates = Access(settings), Rates()
    celery, store = make_app(settings), connect_async(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not settings.webhook_secrets:
            logger.warning(
                "OPENAI_WEBHOOK_SECRET is not set: every webhook is refused, because none can be "
                "checked. Batches are polled."
            )
        try:
            yield
        finally:
            await store.redis.aclose()
            await asyncio.to_thread(celery.close)

    app = FastAPI(
        title="Batchflow",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        # A redirect to the same path without a slash would name the host that the client named.
        redirect_slashes=False,
        middleware=[
            Middleware(StrictHeaders),
            Middleware(BodyLimit),
            Middleware(RateLimit, rates=rates),
            Middleware(Gate, access=access),
        ],
    )
    app.state.backend = Backend(settings, store, celery, Sender(celery))
    app.state.access = access
    app.state.rates = rates
    app.state.webhook_keys = parse_secrets(settings.webhook_secrets)
    install_errors(app)
    for routes in (webhooks, health, login, api, stream, metrics, pages):
        app.include_router(routes.router)
    app.mount("/static", static_files, name="static")
    return app
