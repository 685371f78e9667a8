"""When a batch is polled next.

A page of OpenAI's list shows a hundred batches, so polling batches together costs next to nothing.
All due times of a credential are therefore ticks of one clock: multiples of the poll interval, of
its double, its fourfold and so on, each of which is a multiple of the ones before it.
"""

import math
import zlib
from dataclasses import dataclass

from openai.types import Batch

from batchflow.settings import Settings
from batchflow.states import Stage, stage_of
from batchflow_workers.policy import Policy

#: The clocks of different credentials are shifted against each other by up to this time.
_MAX_SHIFT_S = 3_600
#: A batch that would be due again after less than this share of its wait skips the tick.
_MIN_WAIT_SHARE = 0.3


@dataclass(frozen=True)
class Conditions:
    """What the wait for the next poll depends on, besides the batch."""

    settings: Settings
    policy: Policy
    #: Epoch seconds.
    now_s: float
    #: Whether webhooks arrive for the batch's credential.
    webhooks_active: bool = False
    #: How many calls it takes to observe all batches that are due together.
    calls: float = 1


def due_in_s(batch: Batch, credential: str, conditions: Conditions) -> float:
    """Seconds until the tick of its credential at which a batch is due; see :func:`wait_s`."""
    longest_s = wait_s(batch, conditions)
    interval_s = conditions.settings.poll_interval_s
    return until_tick_s(longest_s, interval_s, credential, conditions.now_s)


def wait_s(batch: Batch, conditions: Conditions) -> float:
    """The longest time until a running batch is polled again.

    It is short while the batch is young and few calls show all batches that are due with it. It is
    long when the batch is old or a webhook will report its end.
    """
    interval_s, policy = conditions.settings.poll_interval_s, conditions.policy
    stage = stage_of(batch.status)
    if stage < Stage.IN_PROGRESS:
        interval_s = min(interval_s, policy.longest_until_started_s)
    shortest, longest = 1, policy.longest_intervals
    if conditions.webhooks_active and stage is Stage.IN_PROGRESS:
        shortest = policy.shortest_intervals_with_webhooks
        longest = policy.longest_intervals_with_webhooks
    factor = interval_factor(conditions.calls)
    shortest = max(shortest, min(factor, policy.longest_intervals_with_webhooks))
    age_s = conditions.now_s - batch.created_at
    return max(interval_s * shortest, min(age_s * policy.age_share, interval_s * longest))


def interval_factor(calls: float) -> int:
    """The least number of poll intervals between polls that take ``calls`` calls each.

    It doubles with four times the calls. So both the calls per minute and the age of a status grow
    with the square root of the number of batches.
    """
    return int(2 ** math.ceil(math.log2(max(1.0, calls)) / 2))


def until_tick_s(longest_s: float, poll_interval_s: float, credential: str, now_s: float) -> float:
    """Seconds, at most ``longest_s``, until the batches of a credential are due together."""
    now_s += zlib.crc32(credential.encode()) % _MAX_SHIFT_S
    tick_s = math.ldexp(poll_interval_s, math.floor(math.log2(longest_s / poll_interval_s)))
    left_s = longest_s - (now_s + longest_s) % tick_s
    # Half a tick later is still within the wait, and the tick after that is a common one again.
    return left_s if left_s > longest_s * _MIN_WAIT_SHARE else left_s + tick_s / 2
