"""``/metrics`` for Prometheus: the whole fleet, from any gateway.

When Redis is away the answer is 200 all the same, with ``batchflow_redis_up 0`` and nothing that
only Redis knows. So Prometheus tells a gateway that is away (``up``) from a Redis that is, and goes
on seeing the queues where they have a broker of their own. It is what its documentation advises for
exporters.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from batchflow.errors import StoreUnavailable
from batchflow.gateway.context import AppContext, GatewayContext
from batchflow.gateway.metering.families import Families
from batchflow.gateway.metering.fleet import Fleet, read_fleet
from batchflow.queue import Queue, QueueUnavailable, queue_name
from batchflow.queue.lengths import QueueLength, queue_lengths

logger = logging.getLogger(__name__)

router = APIRouter()

#: How long a scrape waits for Celery's broker; Prometheus gives up after ten seconds.
_BROKER_S = 3.0


@router.get("/metrics", include_in_schema=False)
async def metrics(context: AppContext, request: Request) -> Response:
    """Prometheus' text format, or OpenMetrics for who asks for it."""
    fleet, queues = await asyncio.gather(_fleet(context), _queues(context))
    encode, content_type = _encoder(", ".join(request.headers.getlist("accept")))
    return Response(encode(Families(fleet, queues)), headers={"content-type": content_type})


async def _fleet(context: GatewayContext) -> Fleet | None:
    try:
        return await read_fleet(context.store)
    except StoreUnavailable as error:
        logger.warning("Metrics without the fleet: %s", error)
        return None


async def _queues(context: GatewayContext) -> Mapping[Queue, QueueLength] | None:
    names = {queue: queue_name(context.settings.key_prefix, queue) for queue in Queue}
    look = asyncio.to_thread(
        queue_lengths, context.celery, list(names.values()), patience_s=_BROKER_S
    )
    try:
        async with asyncio.timeout(_BROKER_S):
            found = await look
    except (TimeoutError, QueueUnavailable) as error:
        logger.warning("Metrics without the queues: %s", error or "the broker does not answer")
        return None
    return {queue: found[name] for queue, name in names.items()}


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:
        # A version that is no number.
        return choose_encoder("")
