"""OpenAI: whether it takes each API key that jobs have named and that is on this machine."""

import asyncio
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Final

from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.cli.text import count, duration
from batchflow.errors import CredentialMissing, CredentialRefused, OpenAIError
from batchflow.jobs import Credential
from batchflow.openai_client.client import connect_openai
from batchflow.overview.health import LONG_BACKOFF_S
from batchflow.store import backoff, index, records
from batchflow.store.backoff import Backoff
from batchflow.store.command import Command

#: Credentials that are tried.
MOST_CREDENTIALS: Final = 20
#: For one call, in seconds.
TIMEOUT_S: Final = 8.0


async def known(look: CheckContext) -> dict[str, Credential]:
    """The credentials that jobs have named, by name, or the default one."""
    named = await look.store.run(index.credentials())
    default = Credential()
    return dict(sorted(named.items())) or {str(default): default}


async def credentials(look: CheckContext) -> Iterable[CheckResult]:
    """Try each, and say which ones the workers have given up for now."""
    everything = await known(look)
    found = dict(islice(everything.items(), MOST_CREDENTIALS))
    now_s = await look.store.run(records.time())
    ask: list[Command[Backoff | None]] = [backoff.current(name, now_s) for name in found]
    waits = await look.store.run_all(ask)
    tried = await asyncio.gather(*(_try(credential) for credential in found.values()))
    findings = [
        finding
        for wait, finding in zip(waits, tried, strict=True)
        for finding in (*_backed_off(finding.what, wait), finding)
    ]
    if more := len(everything) - len(found):
        findings.append(CheckResult(Level.NOTE, "others", f"{count(more, 'credential')} not tried"))
    return findings


async def _try(credential: Credential) -> CheckResult:
    name = str(credential)
    try:
        await in_thread(partial(_list_batches, credential))
    except CredentialMissing:
        seen = "the API key is not on this machine, so it was not tried; the workers need it"
        return CheckResult(Level.NOTE, name, seen)
    except CredentialRefused as error:
        advice = "Put the right key where the workers find it; they try again within five minutes."
        return CheckResult(Level.PROBLEM, name, str(error), advice)
    except OpenAIError as error:
        advice = "Jobs wait until this is over, and go on by themselves."
        return CheckResult(Level.WARNING, name, str(error), advice)
    return CheckResult(Level.OK, name, "OpenAI takes the API key")


def _list_batches(credential: Credential) -> None:
    next(connect_openai(credential, TIMEOUT_S).batch_pages(), None)


def _backed_off(name: str, wait: Backoff | None) -> list[CheckResult]:
    if wait is None:
        return []
    level = Level.PROBLEM if wait.seconds_left > LONG_BACKOFF_S else Level.WARNING
    seen = f"the workers wait {duration(wait.seconds_left)} more: {wait.message}"
    return [CheckResult(level, name, seen)]
