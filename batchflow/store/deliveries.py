"""Commands about the webhooks that OpenAI delivers."""

from batchflow.store import keys
from batchflow.store.command import Command


def was_delivered(webhook_id: str) -> Command[bool]:
    """Whether a webhook was accepted before."""
    return Command("EXISTS", [keys.delivery(webhook_id)], [], bool)


def remember(webhook_id: str) -> Command[bool]:
    """Remember an accepted webhook for longer than OpenAI retries it."""
    return Command("SET", [keys.delivery(webhook_id)], ["1", "EX", keys.DELIVERY_TTL_S], bool)


def mark_webhooks_active(credential: str) -> Command[bool]:
    """Record that a webhook arrived for a batch of this credential."""
    return Command("SET", [keys.pushed(credential)], ["1", "EX", keys.PUSHED_TTL_S], bool)


def webhooks_active(credential: str) -> Command[bool]:
    """Whether webhooks arrive for the batches of this credential."""
    return Command("EXISTS", [keys.pushed(credential)], [], bool)
