"""The gateway and its webhooks: settings, readiness, endpoints at OpenAI, and deliveries."""

import asyncio
from collections.abc import Iterable
from typing import Final

import httpx2

from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.cli.checks.credentials import OPENAI_TIMEOUT_S, used_credentials
from batchflow.errors import CredentialMissing, CredentialRefused, InvalidInput, OpenAIError
from batchflow.gateway.webhook_signature import parse_secrets
from batchflow.jobs import Credential
from batchflow.openai_client.webhook_endpoints import check_url, connect_webhooks
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH
from batchflow.overview.formatting import count, duration
from batchflow.settings import Settings
from batchflow.store import heartbeats, metrics, records

_TIMEOUT_S: Final = 8.0
#: The length of the output of `openssl rand -hex 16`.
_MIN_TOKEN_CHARS: Final = 32
_POLLING_ADVICE = "Until then, the end of a batch is noticed at its next poll."


async def webhook_secrets(context: CheckContext) -> Iterable[CheckResult]:
    """Check that there is a signing secret; raises InvalidSettings for an invalid one."""
    found = parse_secrets(context.settings.webhook_secrets)
    if found:
        return [CheckResult(Level.OK, "secret", count(len(found), "secret"))]
    advice = (
        "Create a secret with `batchflow webhooks register` and set OPENAI_WEBHOOK_SECRET of the "
        f"gateway, which otherwise rejects all webhooks. {_POLLING_ADVICE}"
    )
    seen = "OPENAI_WEBHOOK_SECRET is not set on this machine"
    return [CheckResult(Level.WARNING, "secret", seen, advice)]


async def endpoints(context: CheckContext) -> Iterable[CheckResult]:
    """Check, for each API key on this machine, that OpenAI sends the four batch events."""
    used, _ = await used_credentials(context)
    return await asyncio.gather(*(_endpoints(context.settings, each) for each in used.values()))


async def deliveries(context: CheckContext) -> Iterable[CheckResult]:
    """Report the last accepted delivery, or whether all were rejected."""
    now_s = await context.store.run(records.time())
    last_s = (await context.store.run(heartbeats.last_seen())).get("webhook")
    if last_s:
        seen = f"the last one was accepted {duration(now_s - last_s)} ago"
        return [CheckResult(Level.OK, "deliveries", seen)]
    counters = await context.store.run(metrics.counters())
    rejected = int(counters.get(("webhook_deliveries", "rejected"), 0))
    if not rejected:
        return [CheckResult(Level.NOTE, "deliveries", "none yet")]
    seen = f"none was accepted, {rejected:,} rejected"
    advice = "Check that OPENAI_WEBHOOK_SECRET of the gateway is the endpoint's secret."
    return [CheckResult(Level.WARNING, "deliveries", seen, advice)]


async def settings(context: CheckContext) -> Iterable[CheckResult]:
    """Check the gateway's address and token."""
    return [_public_url(context.settings.public_url), _token(context.settings)]


async def readiness(context: CheckContext) -> Iterable[CheckResult]:
    """Check that the gateway responds at its public address and reports that it is ready."""
    if not context.settings.public_url:
        return []
    try:
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S) as client:
            response = await client.get(f"{context.settings.public_url}/readyz")
        parts = response.json()
        status, no_secret = parts["status"], parts["webhooks"] != "ok"
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        seen = f"no gateway responds at BATCHFLOW_PUBLIC_URL ({type(error).__name__})"
        advice = "Start it with `batchflow gateway`, or check the URL and the network."
        return [CheckResult(Level.WARNING, "gateway", seen, advice)]
    if status != "ok":
        seen = f"running, but not ready; it reports about Redis: {parts.get('redis')}"
        advice = "Check BATCHFLOW_REDIS_URL of the gateway."
        return [CheckResult(Level.PROBLEM, "gateway", seen, advice)]
    if no_secret:
        advice = "Set OPENAI_WEBHOOK_SECRET of the gateway: without it, all webhooks are rejected."
        return [CheckResult(Level.WARNING, "gateway", "ready, but has no webhook secret", advice)]
    return [CheckResult(Level.OK, "gateway", "ready, and accepts webhooks")]


async def _endpoints(settings: Settings, credential: Credential) -> CheckResult:
    name = f"endpoints of {credential}"
    try:
        found = await in_thread(lambda: connect_webhooks(credential, OPENAI_TIMEOUT_S).list())
    except CredentialMissing:
        return CheckResult(Level.NOTE, name, "not listed: the API key is not on this machine")
    except CredentialRefused:
        return CheckResult(Level.NOTE, name, "not listed: this API key lacks the permission")
    except OpenAIError as error:
        return CheckResult(Level.NOTE, name, str(error))
    url = f"{settings.public_url}{WEBHOOK_PATH}" if settings.public_url else None
    ours = [endpoint for endpoint in found if url in (None, endpoint.url)]
    missing = set(BATCH_EVENTS) - {event for endpoint in ours for event in endpoint.event_types}
    if not missing:
        return CheckResult(Level.OK, name, ", ".join(sorted({endpoint.url for endpoint in ours})))
    where = url or f"https://...{WEBHOOK_PATH}"
    events = ", ".join(event for event in BATCH_EVENTS if event in missing)
    seen = f"none for {events}" + (f" at {url}" if url else "")
    level = Level.WARNING if settings.webhook_secrets else Level.NOTE
    advice = f"Run: batchflow webhooks register {where}. {_POLLING_ADVICE}"
    return CheckResult(level, name, seen, advice)


def _public_url(url: str | None) -> CheckResult:
    if url is None:
        seen = "BATCHFLOW_PUBLIC_URL is not set on this machine"
        advice = "Set it for the connector as well, so that Flyte's console links to jobs."
        return CheckResult(Level.NOTE, "address", seen, advice)
    try:
        check_url(url + WEBHOOK_PATH)
    except InvalidInput:
        seen = f"{url} is not https"
        advice = "Put a TLS proxy in front of the gateway: OpenAI sends webhooks to https only."
        return CheckResult(Level.WARNING, "address", seen, advice)
    return CheckResult(Level.OK, "address", url)


def _token(settings: Settings) -> CheckResult:
    token = settings.api_token
    if token is None:
        seen = (
            "BATCHFLOW_API_TOKEN is not set on this machine; without it, the gateway serves only "
            "the loopback"
        )
        return CheckResult(Level.NOTE, "token", seen)
    length = len(token.get_secret_value())
    if length < _MIN_TOKEN_CHARS:
        advice = "Use a longer one, such as the output of `openssl rand -hex 16`."
        return CheckResult(Level.NOTE, "token", f"{length} characters", advice)
    return CheckResult(Level.OK, "token", f"{length} characters")
