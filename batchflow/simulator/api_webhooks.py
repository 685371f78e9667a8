"""OpenAI's API for managing webhook endpoints."""

import base64
import secrets
import time
from dataclasses import replace
from typing import Annotated, Literal, get_args

import httpx2
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batchflow.simulator import ids
from batchflow.simulator.config import HttpUrl
from batchflow.simulator.errors import ApiError, not_found
from batchflow.simulator.requests import limit_of, read_json
from batchflow.simulator.state import Simulator
from batchflow.simulator.webhooks import OLD_SECRET_S, Endpoint

EventType = Literal[
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "eval.run.succeeded",
    "eval.run.failed",
    "eval.run.canceled",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "realtime.call.incoming",
    "video.completed",
    "video.failed",
    "agent.environment.ready",
    "agent.environment.failed",
    "agent.environment.suspended",
    "agent.environment.expired",
    "agent.session.created",
    "agent.session.action_required",
    "agent.session.in_progress",
    "agent.session.idle",
    "agent.session.failed",
    "safety.alert.created",
]

_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100
_SECRET_BYTES = 32

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_EventTypes = Annotated[list[EventType], Field(min_length=1)]


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CreateEndpoint(_Params):
    """`openai.types.webhooks.WebhookCreateParams`; plain http is taken too."""

    name: _Name
    url: HttpUrl
    event_types: _EventTypes


class UpdateEndpoint(_Params):
    """`openai.types.webhooks.WebhookUpdateParams`."""

    name: _Name | None = None
    url: HttpUrl | None = None
    event_types: _EventTypes | None = None


class RotateSecret(_Params):
    """`openai.types.webhooks.WebhookRotateSecretParams`."""

    keep_old_secret_active_for_24_hours: bool = False


class TestEndpoint(_Params):
    """`openai.types.webhooks.WebhookTestParams`."""

    event_type: EventType


async def create(simulator: Simulator, request: Request, organization: str) -> Response:
    """`POST /v1/webhook_endpoints`; the answer has the secret."""
    wanted = await read_json(request, CreateEndpoint)
    now = int(time.time())
    endpoint = Endpoint(
        id=ids.new_id("we"),
        name=wanted.name,
        url=wanted.url,
        event_types=tuple(wanted.event_types),
        secret=_new_secret(),
        created_at=now,
        updated_at=now,
    )
    simulator.webhooks.of(organization).add(endpoint)
    return _with_secret(endpoint)


async def list_(simulator: Simulator, request: Request, organization: str) -> Response:
    """`GET /v1/webhook_endpoints`, newest first."""
    limit = limit_of(request, default=_DEFAULT_LIMIT, highest=_MAX_LIMIT)
    after = request.query_params.get("after")
    try:
        page = simulator.webhooks.of(organization).page(after=after, limit=limit, newest_first=True)
    except KeyError:
        raise not_found("webhook endpoint", after or "", param="after") from None
    return JSONResponse(
        {
            "object": "list",
            "data": [endpoint.to_json() for endpoint in page.items],
            "first_id": page.items[0].id if page.items else None,
            "last_id": page.items[-1].id if page.items else None,
            "has_more": page.has_more,
        }
    )


async def retrieve(simulator: Simulator, request: Request, organization: str) -> Response:
    """`GET /v1/webhook_endpoints/{id}`."""
    return JSONResponse(_find(simulator, request, organization).to_json())


async def update(simulator: Simulator, request: Request, organization: str) -> Response:
    """`POST /v1/webhook_endpoints/{id}`."""
    wanted = await read_json(request, UpdateEndpoint)
    endpoint = _find(simulator, request, organization)
    changed = replace(
        endpoint,
        name=endpoint.name if wanted.name is None else wanted.name,
        url=endpoint.url if wanted.url is None else wanted.url,
        event_types=(
            endpoint.event_types if wanted.event_types is None else tuple(wanted.event_types)
        ),
    )
    if changed != endpoint:
        changed = replace(changed, updated_at=int(time.time()))
        simulator.webhooks.of(organization).replace(changed)
    return JSONResponse(changed.to_json())


async def delete(simulator: Simulator, request: Request, organization: str) -> Response:
    """`DELETE /v1/webhook_endpoints/{id}`."""
    endpoint = _find(simulator, request, organization)
    simulator.webhooks.of(organization).remove(endpoint.id)
    return JSONResponse({"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True})


async def rotate_secret(simulator: Simulator, request: Request, organization: str) -> Response:
    """`POST /v1/webhook_endpoints/{id}/rotate_secret`; the answer has the new secret."""
    wanted = await read_json(request, RotateSecret)
    endpoint = _find(simulator, request, organization)
    now = time.time()
    kept = wanted.keep_old_secret_active_for_24_hours
    rotated = replace(
        endpoint,
        secret=_new_secret(),
        updated_at=int(now),
        old_secret=endpoint.secret if kept else None,
        old_secret_until=now + OLD_SECRET_S if kept else 0.0,
    )
    simulator.webhooks.of(organization).replace(rotated)
    return _with_secret(rotated)


async def test(simulator: Simulator, request: Request, organization: str) -> Response:
    """`POST /v1/webhook_endpoints/{id}/test`: sends a sample event, once."""
    wanted = await read_json(request, TestEndpoint)
    endpoint = _find(simulator, request, organization)
    try:
        status = await simulator.webhooks.test(endpoint, wanted.event_type)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        raise ApiError(400, "The webhook endpoint could not be reached.", param="url") from None
    return JSONResponse(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint.id,
            "event_type": wanted.event_type,
            "status_code": status,
            "success": True,
        }
    )


async def event_types(simulator: Simulator, request: Request, organization: str) -> Response:
    """`GET /v1/webhook_event_types`."""
    return JSONResponse({"object": "list", "data": list(get_args(EventType))})


def _find(simulator: Simulator, request: Request, organization: str) -> Endpoint:
    endpoint_id: str = request.path_params["endpoint_id"]
    endpoint = simulator.webhooks.of(organization).get(endpoint_id)
    if endpoint is None:
        raise not_found("webhook endpoint", endpoint_id)
    return endpoint


def _new_secret() -> SecretStr:
    return SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def _with_secret(endpoint: Endpoint) -> Response:
    secret = endpoint.secret.get_secret_value()
    return JSONResponse({**endpoint.to_json(), "signing_secret": secret})
