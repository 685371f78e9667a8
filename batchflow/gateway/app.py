"""The app: its routes and what surrounds them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from batchflow.gateway import probes, webhook_receiver
from batchflow.gateway.api import event_stream
from batchflow.gateway.api import routes as api_routes
from batchflow.gateway.context import GatewayContext
from batchflow.gateway.error_responses import install_error_handlers
from batchflow.gateway.metering import metrics
from batchflow.gateway.pages import login
from batchflow.gateway.pages import routes as page_routes
from batchflow.gateway.pages.templating import static_files
from batchflow.gateway.security.access import Access
from batchflow.gateway.security.body_limit import BodyLimitMiddleware
from batchflow.gateway.security.headers import SecurityHeadersMiddleware
from batchflow.gateway.security.middleware import AuthMiddleware
from batchflow.gateway.security.rate_limits import RateLimiter, RateLimitMiddleware
from batchflow.gateway.webhook_signature import parse_secrets
from batchflow.queue import Sender, make_app
from batchflow.settings import Settings
from batchflow.store import connect_async

logger = logging.getLogger(__name__)


def make_gateway(settings: Settings) -> FastAPI:
    """The gateway; nothing is connected before it starts. Raises InvalidSettings."""
    access, rate_limiter = Access(settings), RateLimiter()
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
            Middleware(SecurityHeadersMiddleware),
            Middleware(BodyLimitMiddleware),
            Middleware(RateLimitMiddleware, rate_limiter=rate_limiter),
            Middleware(AuthMiddleware, access=access),
        ],
    )
    app.state.context = GatewayContext(settings, store, celery, Sender(celery))
    app.state.access = access
    app.state.rate_limiter = rate_limiter
    app.state.webhook_keys = parse_secrets(settings.webhook_secrets)
    install_error_handlers(app)
    for routes in (webhook_receiver, probes, login, api_routes, event_stream, metrics, page_routes):
        app.include_router(routes.router)
    app.mount("/static", static_files, name="static")
    return app
