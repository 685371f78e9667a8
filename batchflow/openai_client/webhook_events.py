"""The events that OpenAI delivers, and the path at which the gateway receives them.

https://developers.openai.com/api/reference/resources/webhooks
"""

from typing import Final, Literal, get_args

#: The events that OpenAI sends when a batch ends.
BatchEvent = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
BATCH_EVENTS: Final[tuple[BatchEvent, ...]] = get_args(BatchEvent)

WEBHOOK_PATH: Final = "/webhooks/openai"
