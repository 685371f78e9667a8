"""``/metrics`` for Prometheus: the whole fleet, from any gateway.

If Redis is unavailable, the response is still 200, with ``batchflow_redis_up 0`` and without what
only Redis knows, as Prometheus' documentation advises for exporters. So an unavailable gateway
(``up``) can be distinguished from an unavailable Redis, and the queues of a separate broker stay
visible.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from batchflow.errors import StoreUnavailable
from batchflow.gateway.connections import AppConnections, GatewayConnections
from batchflow.gateway.metrics.collector import FleetCollector
from batchflow.overview.snapshot import FleetSnapshot, read_snapshot
from batchflow.queue import Queue, QueueUnavailable, queue_name
from batchflow.queue.lengths import QueueLength, queue_lengths

logger = logging.getLogger(__name__)

router = APIRouter()

#: How long a scrape waits for Celery's broker; Prometheus' own timeout is ten seconds.
_BROKER_TIMEOUT_S = 3.0


@router.get("/metrics", include_in_schema=False)
async def metrics(connections: AppConnections, request: Request) -> Response:
    """Prometheus' text format, or OpenMetrics if the client accepts it."""
    fleet, queues = await asyncio.gather(_fleet(connections), _queues(connections))
    encode, content_type = _encoder(", ".join(request.headers.getlist("accept")))
    return Response(encode(FleetCollector(fleet, queues)), headers={"content-type": content_type})


async def _fleet(connections: GatewayConnections) -> FleetSnapshot | None:
    try:
        return await read_snapshot(connections.store)
    except StoreUnavailable as error:
        logger.warning("Metrics without the fleet: %s", error)
        return None


async def _queues(connections: GatewayConnections) -> Mapping[Queue, QueueLength] | None:
    names = {queue: queue_name(connections.settings.key_prefix, queue) for queue in Queue}
    query = asyncio.to_thread(
        queue_lengths, connections.celery, list(names.values()), timeout_s=_BROKER_TIMEOUT_S
    )
    try:
        async with asyncio.timeout(_BROKER_TIMEOUT_S):
            found = await query
    except (TimeoutError, QueueUnavailable) as error:
        logger.warning("Metrics without the queues: %s", error or "the broker does not answer")
        return None
    return {queue: found[name] for queue, name in names.items()}


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:
        # prometheus_client raises it for a version that is not a number.
        return choose_encoder("")
