"""The ASGI app: its routes and middleware."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from batchflow.gateway import probes, webhook_receiver
from batchflow.gateway.api import event_stream, jobs
from batchflow.gateway.connections import GatewayConnections
from batchflow.gateway.error_responses import ERROR_HANDLERS
from batchflow.gateway.metrics import endpoint
from batchflow.gateway.pages import job_pages, login
from batchflow.gateway.pages.templating import static_files
from batchflow.gateway.security.access import Access
from batchflow.gateway.security.headers import SecurityHeadersMiddleware
from batchflow.gateway.security.middleware import AccessMiddleware, BodyLimitMiddleware
from batchflow.gateway.security.rate_limit import RateLimiter
from batchflow.gateway.webhook_signature import parse_secrets
from batchflow.queue import Sender, make_app
from batchflow.settings import Settings
from batchflow.store import connect_async

logger = logging.getLogger(__name__)


def make_gateway(settings: Settings) -> FastAPI:
    """The gateway. It connects when it starts. Raises InvalidSettings."""
    access, limiter = Access(settings), RateLimiter()
    celery, store = make_app(settings), connect_async(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not settings.webhook_secrets:
            logger.warning(
                "OPENAI_WEBHOOK_SECRET is not set, so webhooks can't be verified and are refused. "
                "Batches are polled."
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
        # A redirect to the path without a slash would use the host name that the client sent.
        redirect_slashes=False,
        exception_handlers=ERROR_HANDLERS,
        middleware=[
            Middleware(SecurityHeadersMiddleware),
            Middleware(BodyLimitMiddleware),
            Middleware(AccessMiddleware, access=access, limiter=limiter),
        ],
    )
    app.state.connections = GatewayConnections(settings, store, celery, Sender(celery))
    app.state.access = access
    app.state.rate_limiter = limiter
    app.state.webhook_keys = parse_secrets(settings.webhook_secrets)
    for routes in (webhook_receiver, probes, login, jobs, event_stream, endpoint, job_pages):
        app.include_router(routes.router)
    app.mount("/static", static_files, name="static")
    return app
