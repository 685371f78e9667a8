"""For how long OpenAI is left alone with a credential, as commands."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from batchflow.store import keys
from batchflow.store.command import Command

#: Shared backoff of a credential, in seconds.
FIRST_S = 1.0
LONGEST_S = 300.0


@dataclass(frozen=True)
class Backoff:
    """Why and for how long nobody is to ask OpenAI with a credential."""

    seconds_left: float
    message: str


def extend(credential: str, *, message: str, retry_after_s: float | None = None) -> Command[float]:
    """Note that OpenAI failed a credential; the answer is how many seconds everybody waits."""
    jitter = random.random()  # noqa: S311 - spreads load, guards nothing
    return Command(
        "back_off",
        [keys.backoff(credential)],
        [FIRST_S, LONGEST_S, retry_after_s or 0, jitter, message],
        float,
        is_script=True,
    )


def current(credential: str, now_s: float) -> Command[Backoff | None]:
    """Whether a credential is backed off at Redis' time ``now_s``."""

    def parse(raw: Sequence[str | None]) -> Backoff | None:
        left = float(raw[0] or 0) - now_s
        return Backoff(left, raw[1] or "") if left > 0 else None

    return Command("HMGET", [keys.backoff(credential)], ["until", "message"], parse)


def clear(credential: str) -> Command[bool]:
    """Note that OpenAI answered a credential."""
    return Command("DEL", [keys.backoff(credential)], [], bool)
