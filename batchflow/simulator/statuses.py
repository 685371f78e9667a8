"""The batch statuses that OpenAI documents."""

#: The batch has ended.
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
#: The batch has not ended.
LIVE = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
KNOWN = ENDED | LIVE
