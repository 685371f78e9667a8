"""The statuses of a batch that OpenAI lists."""

#: Nothing happens any more.
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
#: The batch still lives.
LIVE = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
#: All of them.
KNOWN = ENDED | LIVE
