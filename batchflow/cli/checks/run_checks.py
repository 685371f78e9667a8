"""All checks, at the same time, each for a limited one."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from batchflow.cli.checks import (
    api_keys,
    celery_fleet,
    clocks,
    due_jobs,
    gateway_server,
    redis_server,
    software,
    storage,
    webhook_setup,
)
from batchflow.cli.checks.check import Check, CheckContext, CheckResult, Level
from batchflow.errors import BatchflowError, StoreUnavailable
from batchflow.queue import QueueUnavailable

logger = logging.getLogger(__name__)

#: How long a check may take, in seconds.
LIMIT_S: Final = 15.0

#: In the order in which things depend on each other.
_CHECKS: Final[tuple[tuple[str, tuple[Check, ...]], ...]] = (
    ("Redis", (redis_server.answers, redis_server.server, redis_server.record_encoding)),
    ("Clocks", (clocks.redis, clocks.openai)),
    ("Celery", (celery_fleet.broker, celery_fleet.queues, celery_fleet.workers, celery_fleet.beat)),
    ("Jobs", (due_jobs.overdue, due_jobs.polls)),
    ("OpenAI", (api_keys.credentials,)),
    ("Webhooks", (webhook_setup.secrets, webhook_setup.endpoints, webhook_setup.deliveries)),
    ("Files", (storage.places,)),
    ("Gateway", (gateway_server.settings, gateway_server.answers)),
    ("Software", (software.versions,)),
)


@dataclass(frozen=True)
class Section:
    """What was found about one part."""

    name: str
    findings: tuple[CheckResult, ...]


async def run_checks(look: CheckContext) -> list[Section]:
    """Check everything."""
    return await asyncio.gather(*(_section(name, checks, look) for name, checks in _CHECKS))


async def _section(name: str, checks: tuple[Check, ...], look: CheckContext) -> Section:
    found = await asyncio.gather(*(_findings(check, look) for check in checks))
    return Section(name, tuple(finding for findings in found for finding in findings))


async def _findings(check: Check, look: CheckContext) -> list[CheckResult]:
    name = getattr(check, "__name__", "check")
    try:
        async with asyncio.timeout(LIMIT_S):
            return list(await check(look))
    except TimeoutError:
        return [CheckResult(Level.PROBLEM, name, f"no answer within {LIMIT_S:g} s")]
    except StoreUnavailable:
        return [CheckResult(Level.NOTE, name, "can't be told while Redis is away")]
    except QueueUnavailable:
        return [CheckResult(Level.NOTE, name, "can't be told while Celery's broker is away")]
    except BatchflowError as error:
        return [CheckResult(Level.PROBLEM, name, str(error))]
    except Exception as error:
        logger.debug("The check %s broke", name, exc_info=True)
        # Not the error's words: they may hold a secret.
        seen = f"this check broke with {type(error).__name__}"
        return [CheckResult(Level.PROBLEM, name, seen, "Please report it.")]
