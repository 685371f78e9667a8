"""All checks, at the same time, each for a limited one."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from batchflow.cli.checks import (
    celery_side,
    clocks,
    files,
    gateway,
    jobs,
    openai_side,
    redis_server,
    software,
    webhooks,
)
from batchflow.cli.checks.findings import Check, Finding, Level, Look
from batchflow.errors import BatchflowError, StoreUnavailable
from batchflow.queue import QueueUnavailable

logger = logging.getLogger(__name__)

#: How long a check may take, in seconds.
LIMIT_S: Final = 15.0

#: In the order in which things depend on each other.
_CHECKS: Final[tuple[tuple[str, tuple[Check, ...]], ...]] = (
    ("Redis", (redis_server.answers, redis_server.server, redis_server.record_encoding)),
    ("Clocks", (clocks.redis, clocks.openai)),
    ("Celery", (celery_side.broker, celery_side.queues, celery_side.workers, celery_side.beat)),
    ("Jobs", (jobs.overdue, jobs.polls)),
    ("OpenAI", (openai_side.credentials,)),
    ("Webhooks", (webhooks.secrets, webhooks.endpoints, webhooks.deliveries)),
    ("Files", (files.places,)),
    ("Gateway", (gateway.settings, gateway.answers)),
    ("Software", (software.versions,)),
)


@dataclass(frozen=True)
class Section:
    """What was found about one part."""

    name: str
    findings: tuple[Finding, ...]


async def examine(look: Look) -> list[Section]:
    """Check everything."""
    return await asyncio.gather(*(_section(name, checks, look) for name, checks in _CHECKS))


async def _section(name: str, checks: tuple[Check, ...], look: Look) -> Section:
    found = await asyncio.gather(*(_findings(check, look) for check in checks))
    return Section(name, tuple(finding for findings in found for finding in findings))


async def _findings(check: Check, look: Look) -> list[Finding]:
    name = getattr(check, "__name__", "check")
    try:
        async with asyncio.timeout(LIMIT_S):
            return list(await check(look))
    except TimeoutError:
        return [Finding(Level.PROBLEM, name, f"no answer within {LIMIT_S:g} s")]
    except StoreUnavailable:
        return [Finding(Level.NOTE, name, "can't be told while Redis is away")]
    except QueueUnavailable:
        return [Finding(Level.NOTE, name, "can't be told while Celery's broker is away")]
    except BatchflowError as error:
        return [Finding(Level.PROBLEM, name, str(error))]
    except Exception as error:
        logger.debug("The check %s broke", name, exc_info=True)
        # Not the error's words: they may hold a secret.
        seen = f"this check broke with {type(error).__name__}"
        return [Finding(Level.PROBLEM, name, seen, "Please report it.")]
