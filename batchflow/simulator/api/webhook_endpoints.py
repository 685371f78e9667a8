"""OpenAI's API for managing webhook endpoints."""

import base64
import secrets
import time
from dataclasses import replace
from typing import Annotated, Literal, get_args

import httpx2
from pydantic import Field, SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batchflow.simulator.api.paging import find, list_page
from batchflow.simulator.api.request_reading import read_json
from batchflow.simulator.api_error import ApiError, InputModel
from batchflow.simulator.config import HttpUrl
from batchflow.simulator.engine import ids
from batchflow.simulator.engine.state import SimulatorState
from batchflow.simulator.engine.webhook_sender import OLD_SECRET_LIFETIME_S, StoredWebhookEndpoint

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

#: What error messages call the objects.
_KIND = "webhook endpoint"
_SECRET_BYTES = 32

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_EventTypes = Annotated[list[EventType], Field(min_length=1)]


class CreateEndpoint(InputModel):
    """`openai.types.webhooks.WebhookCreateParams`; `http` URLs are also allowed."""

    name: _Name
    url: HttpUrl
    event_types: _EventTypes


class UpdateEndpoint(InputModel):
    """`openai.types.webhooks.WebhookUpdateParams`."""

    name: _Name | None = None
    url: HttpUrl | None = None
    event_types: _EventTypes | None = None


class RotateSecret(InputModel):
    """`openai.types.webhooks.WebhookRotateSecretParams`."""

    keep_old_secret_active_for_24_hours: bool = False


class TestEndpoint(InputModel):
    """`openai.types.webhooks.WebhookTestParams`."""

    event_type: EventType


async def create(state: SimulatorState, request: Request, organization: str) -> Response:
    """`POST /v1/webhook_endpoints`; the response contains the secret."""
    params = await read_json(request, CreateEndpoint)
    now = int(time.time())
    endpoint = StoredWebhookEndpoint(
        id=ids.new_id("we"),
        name=params.name,
        url=params.url,
        event_types=params.event_types,
        secret=_new_secret(),
        created_at=now,
        updated_at=now,
    )
    state.webhooks.endpoints.of(organization).add(endpoint)
    return _response_with_secret(endpoint)


async def list_(state: SimulatorState, request: Request, organization: str) -> Response:
    """`GET /v1/webhook_endpoints`, newest first."""
    endpoints = state.webhooks.endpoints.of(organization)
    return list_page(request, endpoints, StoredWebhookEndpoint.to_json, kind=_KIND)


async def retrieve(state: SimulatorState, request: Request, organization: str) -> Response:
    return JSONResponse(find(request, state.webhooks.endpoints.of(organization), _KIND).to_json())


async def update(state: SimulatorState, request: Request, organization: str) -> Response:
    params = await read_json(request, UpdateEndpoint)
    endpoint = find(request, state.webhooks.endpoints.of(organization), _KIND)
    changed = replace(endpoint, **params.model_dump(exclude_none=True))
    if changed != endpoint:
        changed = replace(changed, updated_at=int(time.time()))
        state.webhooks.endpoints.of(organization).replace(changed)
    return JSONResponse(changed.to_json())


async def delete(state: SimulatorState, request: Request, organization: str) -> Response:
    endpoint = find(request, state.webhooks.endpoints.of(organization), _KIND)
    state.webhooks.endpoints.of(organization).remove(endpoint.id)
    return JSONResponse({"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True})


async def rotate_secret(state: SimulatorState, request: Request, organization: str) -> Response:
    """`POST /v1/webhook_endpoints/{id}/rotate_secret`; the response contains the new secret."""
    params = await read_json(request, RotateSecret)
    endpoint = find(request, state.webhooks.endpoints.of(organization), _KIND)
    now = time.time()
    keep = params.keep_old_secret_active_for_24_hours
    rotated = replace(
        endpoint,
        secret=_new_secret(),
        updated_at=int(now),
        old_secret=endpoint.secret if keep else None,
        old_secret_until=now + OLD_SECRET_LIFETIME_S if keep else 0.0,
    )
    state.webhooks.endpoints.of(organization).replace(rotated)
    return _response_with_secret(rotated)


async def test(state: SimulatorState, request: Request, organization: str) -> Response:
    """`POST /v1/webhook_endpoints/{id}/test`: sends one sample event."""
    params = await read_json(request, TestEndpoint)
    endpoint = find(request, state.webhooks.endpoints.of(organization), _KIND)
    try:
        status = await state.webhooks.test(endpoint, params.event_type)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        raise ApiError(400, "The webhook endpoint could not be reached.", param="url") from None
    return JSONResponse(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint.id,
            "event_type": params.event_type,
            "status_code": status,
            "success": True,
        }
    )


async def event_types(state: SimulatorState, request: Request, organization: str) -> Response:
    return JSONResponse({"object": "list", "data": list(get_args(EventType))})


def _new_secret() -> SecretStr:
    return SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def _response_with_secret(endpoint: StoredWebhookEndpoint) -> Response:
    secret = endpoint.secret.get_secret_value()
    return JSONResponse({**endpoint.to_json(), "signing_secret": secret})
