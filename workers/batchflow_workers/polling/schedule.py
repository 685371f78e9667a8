"""When a credential's batches are asked about: rarely enough, and together.

A page of OpenAI's list tells of a hundred batches, so what is due at the same time costs next to
nothing. All due times of a credential therefore are ticks of one clock: multiples of the poll
interval, its double, fourfold and so on, of which each is a multiple of those before it.
"""

import math
import zlib

#: Credentials tick at different times, within so many seconds.
_SPREAD_S = 3_600
#: What would be due again after less than this share of its wait was looked at just now.
_JUST_NOW = 0.3


def spacing(calls: float) -> int:
    """How many poll intervals, at least, are between polls that take so many calls each: twice as
    many for four times the calls. So neither the calls of a minute nor the age of a status grow as
    the number of batches does, but as its root."""
    return int(2 ** math.ceil(math.log2(max(1.0, calls)) / 2))


def until_tick_s(wait_s: float, interval_s: float, credential: str, now_s: float) -> float:
    """In how many seconds, at most ``wait_s``, a credential's batches are due together."""
    now_s += zlib.crc32(credential.encode()) % _SPREAD_S
    tick_s = math.ldexp(interval_s, math.floor(math.log2(wait_s / interval_s)))
    left_s = wait_s - (now_s + wait_s) % tick_s
    # Half a tick later is still within the wait, and the next one is everybody's again.
    return left_s if left_s > wait_s * _JUST_NOW else left_s + tick_s / 2
