"""Webhook endpoints, and the delivery of events to them."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import orjson
from pydantic import SecretStr
from standardwebhooks import Webhook

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine import ids
from batchflow.simulator.engine.paged_collection import Collections

logger = logging.getLogger(__name__)

#: Timeout of a delivery, in seconds.
_TIMEOUT_S = 10.0
#: How long the old secret also signs deliveries after a rotation, in seconds.
OLD_SECRET_LIFETIME_S = 86_400
#: The longest delay between two attempts, in seconds.
_MAX_BACKOFF_S = 3600.0


@dataclass(frozen=True, slots=True)
class StoredWebhookEndpoint:
    """A webhook endpoint of an organization."""

    id: str
    name: str
    url: str
    event_types: Sequence[str]
    secret: SecretStr
    created_at: int
    updated_at: int
    old_secret: SecretStr | None = None
    old_secret_until: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """OpenAI's WebhookEndpoint object, without the secret."""
        return {
            "id": self.id,
            "object": "webhook_endpoint",
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "name": self.name,
            "url": self.url,
            "event_types": list(self.event_types),
            "signing_secret_hint": f"whsec_...{self.secret.get_secret_value()[-4:]}",
        }

    def secrets(self, now: float) -> tuple[SecretStr, ...]:
        """Return the secrets that sign its deliveries."""
        if self.old_secret is None or now >= self.old_secret_until:
            return (self.secret,)
        return (self.secret, self.old_secret)


@dataclass(frozen=True, slots=True)
class _Delivery:
    url: str
    message_id: str
    body: bytes
    #: Called before each attempt, because a secret can be rotated between attempts.
    secrets: Callable[[float], tuple[SecretStr, ...]]


def event(event_type: str, object_id: str) -> dict[str, Any]:
    """Return an event as OpenAI sends it; the only data is the object's id."""
    return {
        "id": ids.new_id("evt"),
        "object": "event",
        "created_at": int(time.time()),
        "type": event_type,
        "data": {"id": object_id},
    }


class WebhookSender:
    """The webhook endpoints of all organizations, and the deliveries in progress."""

    def __init__(self, *, seed: int) -> None:
        self.endpoints = Collections[StoredWebhookEndpoint]()
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = httpx2.AsyncClient(timeout=_TIMEOUT_S)
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        #: Counts of events, attempts and their outcomes.
        self.counts: Counter[str] = Counter()

    def publish(
        self, event_type: str, object_id: str, organization: str, config: SimulatorConfig
    ) -> None:
        """Start to deliver an event to every endpoint that subscribes to its type."""
        body = orjson.dumps(event(event_type, object_id))
        self.counts["events"] += 1
        if config.webhook_url is not None and config.webhook_secret is not None:
            secrets = (config.webhook_secret,)
            self._start_delivery(config.webhook_url, body, lambda _: secrets, config)
        for endpoint in self.endpoints.of(organization):
            if event_type in endpoint.event_types:
                self._start_delivery(endpoint.url, body, endpoint.secrets, config)

    async def test(self, endpoint: StoredWebhookEndpoint, event_type: str) -> int:
        """Deliver a sample event once and return the status code of the response.

        Raises:
            httpx2.HTTPError: There was no response.
        """
        body = orjson.dumps(event(event_type, ids.new_id("sample")))
        return await self._send(_Delivery(endpoint.url, ids.new_id("wh"), body, endpoint.secrets))

    async def stop_all(self) -> None:
        """Cancel all deliveries and delete all endpoints."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.endpoints.clear()
        self.counts.clear()

    async def close(self) -> None:
        """Cancel all deliveries and close the connections."""
        await self.stop_all()
        await self._client.aclose()

    def _start_delivery(
        self,
        url: str,
        body: bytes,
        secrets: Callable[[float], tuple[SecretStr, ...]],
        config: SimulatorConfig,
    ) -> None:
        if self._random.random() < config.webhook_drop_share:
            self.counts["dropped"] += 1
            return
        delivery = _Delivery(url, ids.new_id("wh"), body, secrets)
        twice = self._random.random() < config.webhook_duplicate_share
        for _ in range(2 if twice else 1):
            delay_s = config.webhook_delay_s + self._random.uniform(0, config.webhook_reorder_s)
            task = asyncio.get_running_loop().create_task(self._deliver(delivery, delay_s, config))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: _Delivery, delay_s: float, config: SimulatorConfig) -> None:
        backoff_s = config.webhook_backoff_s
        await asyncio.sleep(delay_s)
        for attempt in range(config.webhook_retries + 1):
            if attempt:
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
            if await self._attempt(delivery):
                self.counts["delivered"] += 1
                return
        self.counts["given_up"] += 1

    async def _attempt(self, delivery: _Delivery) -> bool:
        self.counts["attempts"] += 1
        try:
            status = await self._send(delivery)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            logger.info("webhook %s: no response: %s", delivery.message_id, type(error).__name__)
            return False
        logger.info("webhook %s: status code %d", delivery.message_id, status)
        return 200 <= status < 300

    async def _send(self, delivery: _Delivery) -> int:
        now = datetime.now(UTC)
        text = delivery.body.decode()
        signatures = (
            Webhook(secret.get_secret_value()).sign(delivery.message_id, now, text)
            for secret in delivery.secrets(now.timestamp())
        )
        headers = {
            "content-type": "application/json",
            "user-agent": "OpenAI/1.0 (emulator)",
            "webhook-id": delivery.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        async with self._client.stream(
            "POST", delivery.url, content=delivery.body, headers=headers
        ) as response:
            return response.status_code
