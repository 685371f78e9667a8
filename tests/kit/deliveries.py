"""Webhooks as OpenAI sends them, signed by another implementation than the gateway's."""

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from standardwebhooks import Webhook

#: Two secrets in OpenAI's format.
SECRET = "whsec_" + base64.b64encode(b"the secret of one of the projects").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"the secret of another one").decode()


@dataclass(frozen=True)
class Delivery:
    """A body and its headers."""

    body: bytes
    headers: Mapping[str, str]

    def with_header(self, name: str, value: str) -> "Delivery":
        """A copy with another value for a header."""
        return replace(self, headers={**self.headers, name: value})

    def without(self, name: str) -> "Delivery":
        """A copy without a header."""
        return replace(self, headers={n: v for n, v in self.headers.items() if n != name})


def event(batch_id: str, event_type: str = "batch.completed") -> bytes:
    """The body of an event about a batch."""
    return json.dumps(
        {
            "id": f"evt_{uuid.uuid4().hex}",
            "object": "event",
            "created_at": 1_750_000_000,
            "type": event_type,
            "data": {"id": batch_id},
        }
    ).encode()


def delivery(
    body: bytes, *, at_s: float, secret: str = SECRET, webhook_id: str | None = None
) -> Delivery:
    """A valid delivery of a body, sent at a time."""
    webhook_id = webhook_id or f"wh_{uuid.uuid4().hex}"
    at = datetime.fromtimestamp(int(at_s), UTC)
    return Delivery(
        body,
        {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(at_s)),
            "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode()),
        },
    )
