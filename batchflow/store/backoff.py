"""Commands for backoff: pauses of all calls with a credential."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from batchflow.states import WaitingFor
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
    #: What its jobs wait for, if Flyte is to show it.
    waiting_for: WaitingFor | None = None


def extend(
    credential: str,
    *,
    message: str,
    retry_after_s: float | None = None,
    waiting_for: WaitingFor | None = None,
) -> Command[float]:
    """Start or extend a pause after a failure; returns its length in seconds."""
    jitter = random.random()  # noqa: S311 - spreads load, guards nothing
    return Command(
        "back_off",
        [keys.backoff(credential)],
        [FIRST_S, LONGEST_S, retry_after_s or 0, jitter, message, waiting_for or ""],
        float,
    )


def current(credential: str, now_s: float) -> Command[Backoff | None]:
    """The pause that a credential is in at Redis' time ``now_s``."""

    def parse(raw: Sequence[str | None]) -> Backoff | None:
        left = float(raw[0] or 0) - now_s
        waiting_for = WaitingFor(raw[2]) if raw[2] else None
        return Backoff(left, raw[1] or "", waiting_for) if left > 0 else None

    fields = ["until", "message", "waiting_for"]
    return Command("HMGET", [keys.backoff(credential)], fields, parse)


def clear(credential: str) -> Command[bool]:
    """Forget earlier failures of a credential, because OpenAI answered a call."""
    return Command("DEL", [keys.backoff(credential)], [], bool)
