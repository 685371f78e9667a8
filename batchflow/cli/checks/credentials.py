"""Credentials: whether OpenAI accepts each API key that jobs use and that this machine has."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.errors import CredentialMissing, CredentialRefused, OpenAIError
from batchflow.jobs import Credential
from batchflow.openai_client.client import connect_openai
from batchflow.overview.formatting import count, duration
from batchflow.overview.health import LONG_BACKOFF_S
from batchflow.store import backoff, index, records
from batchflow.store.backoff import Backoff
from batchflow.store.command import Command

_MAX_CREDENTIALS: Final = 20
#: For one call, in seconds.
OPENAI_TIMEOUT_S: Final = 8.0


async def used_credentials(context: CheckContext) -> tuple[dict[str, Credential], int]:
    """Return the credentials of jobs by name, or the default one; and how many more there are."""
    named = await context.store.run(index.credentials()) or {str(Credential()): Credential()}
    used = dict(islice(sorted(named.items()), _MAX_CREDENTIALS))
    return used, len(named) - len(used)


async def credentials(context: CheckContext) -> Iterable[CheckResult]:
    """Call OpenAI with each credential, and report those that the workers back off from."""
    used, more = await used_credentials(context)
    now_s = await context.store.run(records.time())
    commands: list[Command[Backoff | None]] = [backoff.current(name, now_s) for name in used]
    backoffs = await context.store.run_all(commands)
    tried = await asyncio.gather(*(_try(credential) for credential in used.values()))
    results = [
        result
        for current, tried_result in zip(backoffs, tried, strict=True)
        for result in (*_backoff(tried_result.what, current), tried_result)
    ]
    if more:
        results.append(CheckResult(Level.NOTE, "others", f"{count(more, 'credential')} not tried"))
    return results


async def _try(credential: Credential) -> CheckResult:
    name = str(credential)
    try:
        await in_thread(
            lambda: next(connect_openai(credential, OPENAI_TIMEOUT_S).batch_pages(), None)
        )
    except CredentialMissing:
        seen = "not tried: the API key is not on this machine, only the workers need it"
        return CheckResult(Level.NOTE, name, seen)
    except CredentialRefused as error:
        advice = "Correct the API key of the workers. They try it again within five minutes."
        return CheckResult(Level.PROBLEM, name, str(error), advice)
    except OpenAIError as error:
        advice = "Jobs wait until OpenAI is available again, and then continue."
        return CheckResult(Level.WARNING, name, str(error), advice)
    return CheckResult(Level.OK, name, "OpenAI accepts the API key")


def _backoff(name: str, current: Backoff | None) -> list[CheckResult]:
    if current is None:
        return []
    level = Level.PROBLEM if current.seconds_left > LONG_BACKOFF_S else Level.WARNING
    seen = f"the workers wait another {duration(current.seconds_left)}: {current.message}"
    return [CheckResult(level, name, seen)]
