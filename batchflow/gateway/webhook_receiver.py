"""The receiver of OpenAI's webhooks: verifies the signature, enqueues a refresh of the batch.

A delivery only says that a batch has ended; a worker asks OpenAI for the rest. So a delivery that
is late, repeated or out of order does no harm.
"""

import contextlib
import logging
import time
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.background import BackgroundTask
from starlette.responses import Response

from batchflow.errors import StoreUnavailable
from batchflow.gateway.connections import AppConnections, GatewayConnections
from batchflow.gateway.error_responses import error_response
from batchflow.gateway.security.rate_limit import INVALID_DELIVERIES, AppRateLimiter
from batchflow.gateway.webhook_signature import InvalidDelivery, verify
from batchflow.jobs import is_openai_id
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH
from batchflow.queue import QueueUnavailable, Step
from batchflow.store import deliveries, heartbeats, metrics
from batchflow.store.records import find_job

logger = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False)


class DeliveryResult(StrEnum):
    """What was done with a delivery; the label of a metric."""

    ACCEPTED = "accepted"
    #: It was accepted before.
    DUPLICATE = "duplicate"
    #: The batch belongs to no job.
    FOREIGN = "foreign"
    #: It is not about a batch.
    IGNORED = "ignored"
    #: It is malformed, or not from OpenAI.
    REJECTED = "rejected"
    #: The broker is unavailable: OpenAI must repeat it. Without Redis, nothing is counted.
    UNAVAILABLE = "unavailable"


class _Event(BaseModel):
    """The parts of an event that are read (openai-python: ``types/webhooks``)."""

    model_config = ConfigDict(frozen=True, strict=True)

    type: str
    data: dict[str, Any]

    @property
    def batch_id(self) -> str | None:
        """The batch that has ended, if the event is about one; raises InvalidDelivery."""
        if self.type not in BATCH_EVENTS:
            return None
        batch_id = self.data.get("id")
        if not isinstance(batch_id, str) or not is_openai_id(batch_id):
            raise InvalidDelivery("its data.id is not the id of a batch")
        return batch_id


@router.post(WEBHOOK_PATH)
async def receive(
    request: Request, connections: AppConnections, limiter: AppRateLimiter
) -> Response:
    """Receive a delivery: 204 once it is enqueued or needs nothing, 400 if it is not valid, 503 if
    OpenAI must repeat it."""
    try:
        webhook_id, batch_id = await _read(request)
        result = await _handle(connections, webhook_id, batch_id)
    except InvalidDelivery as reason:
        return await _reject(request, connections, limiter, reason)
    except (StoreUnavailable, QueueUnavailable) as error:
        logger.warning("A webhook can't be accepted now; OpenAI will repeat it: %s", error)
        response = error_response(HTTPStatus.SERVICE_UNAVAILABLE, "Send it again later.")
        if isinstance(error, QueueUnavailable):
            response.background = BackgroundTask(_count, connections, DeliveryResult.UNAVAILABLE)
        return response
    # OpenAI waits for the response, not for the counting.
    return Response(
        status_code=HTTPStatus.NO_CONTENT, background=BackgroundTask(_count, connections, result)
    )


async def _read(request: Request) -> tuple[str, str | None]:
    """The id of a delivery, and the batch that it is about, if any; raises InvalidDelivery."""
    try:
        body = await request.body()
    except HTTPException as error:
        raise InvalidDelivery("it is too large") from error
    webhook_id = verify(
        body, request.headers.items(), keys=request.app.state.webhook_keys, now_s=time.time()
    )
    try:
        return webhook_id, _Event.model_validate_json(body).batch_id
    except ValidationError as error:
        raise InvalidDelivery("its body is not an event of OpenAI's") from error


async def _handle(
    connections: GatewayConnections, webhook_id: str, batch_id: str | None
) -> DeliveryResult:
    if batch_id is None:
        return DeliveryResult.IGNORED
    job_id = await connections.store.run(find_job(batch_id))
    if job_id is None:
        return DeliveryResult.FOREIGN
    if await connections.store.run(deliveries.was_delivered(webhook_id)):
        return DeliveryResult.DUPLICATE
    await connections.send(Step.REFRESH, job_id)
    # Not earlier: a delivery that is remembered is not accepted again.
    await connections.store.run(deliveries.remember(webhook_id))
    logger.info("%s: a webhook reports that %s has ended", job_id, batch_id)
    return DeliveryResult.ACCEPTED


async def _reject(
    request: Request,
    connections: GatewayConnections,
    limiter: AppRateLimiter,
    reason: InvalidDelivery,
) -> Response:
    """The same response for every reason, which gives no hint to an attacker."""
    response = error_response(HTTPStatus.BAD_REQUEST, "Not a valid delivery from OpenAI.")
    if not await limiter.wait_s(INVALID_DELIVERIES, request):
        logger.warning("A webhook was refused: %s.", reason)
        response.background = BackgroundTask(_count, connections, DeliveryResult.REJECTED)
    return response


async def _count(connections: GatewayConnections, result: DeliveryResult) -> None:
    commands = [metrics.count("webhook_deliveries", result)]
    if result not in (DeliveryResult.REJECTED, DeliveryResult.UNAVAILABLE):
        commands.append(heartbeats.record_event("webhook"))
    # A lost count does no harm.
    with contextlib.suppress(StoreUnavailable):
        await connections.store.run_all(commands)
