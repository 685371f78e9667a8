"""The receiver of OpenAI's webhooks: checks the signature, queues a look at the batch, answers.

A delivery only says that a batch has ended; what it has come to, a worker asks OpenAI. So one that
is late, repeated or out of order is harmless.
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
from batchflow.gateway.context import AppContext, GatewayContext
from batchflow.gateway.error_responses import error_response
from batchflow.gateway.security.rate_limits import BAD_DELIVERIES, AppRateLimiter
from batchflow.gateway.webhook_signature import InvalidDelivery, verify
from batchflow.jobs import is_openai_id
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH
from batchflow.queue import QueueUnavailable, Step
from batchflow.store import deliveries, heartbeats, metrics
from batchflow.store.records import find_job

logger = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False)


class Result(StrEnum):
    """What became of a delivery, as the metrics have it."""

    ACCEPTED = "accepted"
    #: It was accepted before.
    DUPLICATE = "duplicate"
    #: No job of ours has made this batch.
    FOREIGN = "foreign"
    #: It is about something else than a batch.
    IGNORED = "ignored"
    #: It is malformed, or not from OpenAI.
    REJECTED = "rejected"
    #: The queue is away: OpenAI has to send it again. While Redis is away nothing is counted.
    UNAVAILABLE = "unavailable"


class _Event(BaseModel):
    """What is read of an event (openai-python: ``types/webhooks``)."""

    model_config = ConfigDict(frozen=True, strict=True)

    type: str
    data: dict[str, Any]

    @property
    def batch_id(self) -> str | None:
        """The batch that has ended, if it is about one; raises InvalidDelivery."""
        if self.type not in BATCH_EVENTS:
            return None
        batch_id = self.data.get("id")
        if not isinstance(batch_id, str) or not is_openai_id(batch_id):
            raise InvalidDelivery("its data.id is not the id of a batch")
        return batch_id


@router.post(WEBHOOK_PATH)
async def receive(request: Request, context: AppContext, rate_limiter: AppRateLimiter) -> Response:
    """Take a delivery: 204 once it is queued or needs nothing, 400 if it is not genuine or makes
    no sense, 503 if OpenAI has to send it again."""
    try:
        webhook_id, batch_id = await _read(request)
        result = await _handle(context, webhook_id, batch_id)
    except InvalidDelivery as reason:
        return await _reject(request, context, rate_limiter, reason)
    except (StoreUnavailable, QueueUnavailable) as error:
        logger.warning("A webhook can't be taken now, OpenAI will send it again: %s", error)
        answer = error_response(HTTPStatus.SERVICE_UNAVAILABLE, "Send it again later.")
        if isinstance(error, QueueUnavailable):
            answer.background = BackgroundTask(_count, context, Result.UNAVAILABLE)
        return answer
    # OpenAI waits for the answer, not for the counting.
    return Response(
        status_code=HTTPStatus.NO_CONTENT, background=BackgroundTask(_count, context, result)
    )


async def _read(request: Request) -> tuple[str, str | None]:
    """A delivery's id and the batch it is about, if any; raises InvalidDelivery."""
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
        raise InvalidDelivery("its body is no event of OpenAI's") from error


async def _handle(context: GatewayContext, webhook_id: str, batch_id: str | None) -> Result:
    if batch_id is None:
        return Result.IGNORED
    job_id = await context.store.run(find_job(batch_id))
    if job_id is None:
        return Result.FOREIGN
    if await context.store.run(deliveries.was_delivered(webhook_id)):
        return Result.DUPLICATE
    await context.send(Step.REFRESH, job_id)
    # Not before: what is remembered is not taken again.
    await context.store.run(deliveries.remember(webhook_id))
    logger.info("%s: a webhook says that %s has ended", job_id, batch_id)
    return Result.ACCEPTED


async def _reject(
    request: Request, context: GatewayContext, rate_limiter: AppRateLimiter, reason: InvalidDelivery
) -> Response:
    """One answer for all that is wrong: whoever tries things out learns nothing from it."""
    answer = error_response(HTTPStatus.BAD_REQUEST, "This is no delivery of OpenAI's.")
    if not await rate_limiter.wait_s(BAD_DELIVERIES, request):
        logger.warning("A webhook was refused: %s.", reason)
        answer.background = BackgroundTask(_count, context, Result.REJECTED)
    return answer


async def _count(context: GatewayContext, result: Result) -> None:
    commands = [metrics.count("webhook_deliveries", result)]
    if result not in (Result.REJECTED, Result.UNAVAILABLE):
        commands.append(heartbeats.record_event("webhook"))
    # It is only a number.
    with contextlib.suppress(StoreUnavailable):
        await context.store.run_all(commands)
