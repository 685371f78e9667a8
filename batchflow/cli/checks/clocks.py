"""Clocks: this machine's, Redis' and OpenAI's."""

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Final

import httpx2

from batchflow.cli.checks.check import CheckContext, CheckResult, Level
from batchflow.openai_client.client import base_url
from batchflow.store import records

#: Beyond this the ages that people see are wrong, in seconds.
_NOTICED_S: Final = 5.0
#: A webhook whose time is 300 s off is refused.
_HARMFUL_S: Final = 120.0
_TIMEOUT_S: Final = 8.0


async def redis(look: CheckContext) -> Iterable[CheckResult]:
    """Redis' clock, by which all of Batchflow goes."""
    began_s = time.time()
    theirs_s = await look.store.run(records.time())
    return [_compared("Redis", theirs_s, theirs_s, began_s)]


async def openai(look: CheckContext) -> Iterable[CheckResult]:
    """OpenAI's clock, which is in every answer, and so whether it answers at all."""
    began_s = time.time()
    try:
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S) as client:
            answer = await client.get(f"{base_url().rstrip('/')}/models")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        seen = f"OpenAI can't be reached from here ({type(error).__name__})"
        advice = "The workers have to: look at OPENAI_BASE_URL, proxies and firewalls."
        return [CheckResult(Level.WARNING, "OpenAI", seen, advice)]
    try:
        theirs_s = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return [CheckResult(Level.NOTE, "OpenAI", "its answers don't tell the time")]
    # It has whole seconds.
    return [_compared("OpenAI", theirs_s, theirs_s + 1, began_s)]


def _compared(name: str, earliest_s: float, latest_s: float, began_s: float) -> CheckResult:
    """What they said, a time within these limits, against the time in which they were asked."""
    ahead_s, behind_s = earliest_s - time.time(), began_s - latest_s
    off_s = max(ahead_s, behind_s)
    if off_s < _NOTICED_S:
        return CheckResult(Level.OK, name, f"agrees with this machine's within {_NOTICED_S:g} s")
    seen = f"{off_s:,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    level = Level.PROBLEM if off_s > _HARMFUL_S else Level.WARNING
    advice = "Let all machines follow NTP. Webhooks that seem 300 s old are refused."
    return CheckResult(level, name, seen, advice)
