"""What a gateway and OpenAI's webhooks agree on.

https://developers.openai.com/api/reference/resources/webhooks
"""

from typing import Final, Literal, get_args

#: The events that OpenAI sends when a batch ends.
BatchEvent = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
BATCH_EVENTS: Final[tuple[BatchEvent, ...]] = get_args(BatchEvent)

#: Where the gateway takes them.
WEBHOOK_PATH: Final = "/webhooks/openai"
