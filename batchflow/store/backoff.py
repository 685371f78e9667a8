"""Commands for backoff: pauses of all calls with a credential."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from batchflow.store import keys
from batchflow.store.command import Command

#: The first and the longest pause, in seconds.
FIRST_S = 1.0
LONGEST_S = 300.0


@dataclass(frozen=True)
class Backoff:
    """A pause of a credential's calls, and its reason."""

    seconds_left: float
    message: str


def extend(credential: str, *, message: str, retry_after_s: float | None = None) -> Command[float]:
    """Start or extend a pause after a failure; returns its length in seconds."""
    jitter = random.random()  # noqa: S311 - spreads load, guards nothing
    return Command(
        "back_off",
        [keys.backoff(credential)],
        [FIRST_S, LONGEST_S, retry_after_s or 0, jitter, message],
        float,
    )


def current(credential: str, now_s: float) -> Command[Backoff | None]:
    """The pause that a credential is in at Redis' time ``now_s``."""

    def parse(raw: Sequence[str | None]) -> Backoff | None:
        left = float(raw[0] or 0) - now_s
        return Backoff(left, raw[1] or "") if left > 0 else None

    return Command("HMGET", [keys.backoff(credential)], ["until", "message"], parse)


def clear(credential: str) -> Command[bool]:
    """Forget earlier failures of a credential, because OpenAI answered a call."""
    return Command("DEL", [keys.backoff(credential)], [], bool)
