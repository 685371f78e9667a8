"""Webhooks: the secret, the endpoints at OpenAI, and what came of deliveries."""

import asyncio
from collections.abc import Iterable
from itertools import islice

from batchflow.cli.checks.api_keys import MOST_CREDENTIALS, TIMEOUT_S, known
from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.cli.text import count, duration
from batchflow.errors import CredentialMissing, CredentialRefused, OpenAIError
from batchflow.gateway.webhook_signature import parse_secrets
from batchflow.jobs import Credential
from batchflow.openai_client.webhook_endpoints import connect_webhooks
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH
from batchflow.settings import Settings
from batchflow.store import heartbeats, metrics, records

_POLLS_DO = "Polling finds every end, only later."


async def secrets(look: CheckContext) -> Iterable[CheckResult]:
    """Whether there are signing secrets that can be used; raises InvalidSettings when not."""
    found = parse_secrets(look.settings.webhook_secrets)
    if found:
        return [CheckResult(Level.OK, "secret", count(len(found), "secret"))]
    advice = (
        "Set OPENAI_WEBHOOK_SECRET at the gateway, which refuses all webhooks without it; "
        f"`batchflow webhooks register` makes one. {_POLLS_DO}"
    )
    return [CheckResult(Level.WARNING, "secret", "OPENAI_WEBHOOK_SECRET is not set here", advice)]


async def endpoints(look: CheckContext) -> Iterable[CheckResult]:
    """Whether OpenAI would send the four events, for each API key that is on this machine."""
    found = islice((await known(look)).values(), MOST_CREDENTIALS)
    return await asyncio.gather(*(_endpoints(look.settings, credential) for credential in found))


async def deliveries(look: CheckContext) -> Iterable[CheckResult]:
    """When the last genuine one came, and whether others were refused."""
    now_s = await look.store.run(records.time())
    last_s = (await look.store.run(heartbeats.last_seen())).get("webhook")
    if last_s:
        return [CheckResult(Level.OK, "deliveries", f"the last one {duration(now_s - last_s)} ago")]
    counters = await look.store.run(metrics.counters())
    refused = int(counters.get(("webhook_deliveries", "rejected"), 0))
    if not refused:
        return [CheckResult(Level.NOTE, "deliveries", "none came yet")]
    seen = f"none was genuine; {refused:,} were refused"
    advice = "Look whether OPENAI_WEBHOOK_SECRET of the gateway is the endpoint's."
    return [CheckResult(Level.WARNING, "deliveries", seen, advice)]


async def _endpoints(settings: Settings, credential: Credential) -> CheckResult:
    name = f"endpoints of {credential}"
    try:
        found = await in_thread(lambda: connect_webhooks(credential, TIMEOUT_S).list())
    except CredentialMissing:
        seen = "the API key is not on this machine, so OpenAI can't be asked"
        return CheckResult(Level.NOTE, name, seen)
    except CredentialRefused:
        return CheckResult(Level.NOTE, name, "this API key may not see them")
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
    return CheckResult(level, name, seen, f"batchflow webhooks register {where}. {_POLLS_DO}")
