"""The gateway: what is set, and whether it answers where people reach it."""

from collections.abc import Iterable
from typing import Final

import httpx2

from batchflow.cli.checks.check import CheckContext, CheckResult, Level
from batchflow.errors import InvalidInput
from batchflow.openai_client.webhook_endpoints import check_url
from batchflow.openai_client.webhook_events import WEBHOOK_PATH

_TIMEOUT_S: Final = 8.0
#: As many as `openssl rand -hex 16` makes.
_GOOD_TOKEN_CHARS: Final = 32


async def settings(look: CheckContext) -> Iterable[CheckResult]:
    """The address and the token."""
    return [_public_url(look.settings.public_url), _token(look)]


async def answers(look: CheckContext) -> Iterable[CheckResult]:
    """Whether it is ready, by its own account."""
    if not look.settings.public_url:
        return []
    try:
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S) as client:
            answer = await client.get(f"{look.settings.public_url}/readyz")
        parts = answer.json()
        status, no_secret = parts["status"], parts["webhooks"] != "ok"
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        seen = f"BATCHFLOW_PUBLIC_URL leads to no gateway from here ({type(error).__name__})"
        advice = "Start it with `batchflow gateway`, or look at the URL and at what is between."
        return [CheckResult(Level.WARNING, "gateway", seen, advice)]
    if status != "ok":
        seen = f"it is there, and can't do its work: Redis gives it {parts.get('redis')}"
        advice = "Look at BATCHFLOW_REDIS_URL of the gateway."
        return [CheckResult(Level.PROBLEM, "gateway", seen, advice)]
    if no_secret:
        advice = "Set OPENAI_WEBHOOK_SECRET of the gateway: without it, all webhooks are refused."
        return [
            CheckResult(Level.WARNING, "gateway", "ready, but without a webhook secret", advice)
        ]
    return [CheckResult(Level.OK, "gateway", "ready, and takes webhooks")]


def _public_url(url: str | None) -> CheckResult:
    if url is None:
        seen = "BATCHFLOW_PUBLIC_URL is not set here"
        advice = "Set it for the connector, too, and the Flyte console links to each job's page."
        return CheckResult(Level.NOTE, "address", seen, advice)
    try:
        check_url(url + WEBHOOK_PATH)
    except InvalidInput:
        seen = f"{url} is not https"
        advice = "Put a proxy with TLS before it: OpenAI delivers to nothing else."
        return CheckResult(Level.WARNING, "address", seen, advice)
    return CheckResult(Level.OK, "address", url)


def _token(look: CheckContext) -> CheckResult:
    token = look.settings.api_token
    if token is None:
        seen = (
            "BATCHFLOW_API_TOKEN is not set here; without it the gateway serves the loopback only"
        )
        return CheckResult(Level.NOTE, "token", seen)
    length = len(token.get_secret_value())
    if length < _GOOD_TOKEN_CHARS:
        advice = "`openssl rand -hex 16` makes one that nobody guesses."
        return CheckResult(Level.NOTE, "token", f"{length} characters", advice)
    return CheckResult(Level.OK, "token", f"{length} characters")
