"""``batchflow doctor``: check the installation, and advise what to do about problems."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchflow.cli.checks import credentials, fleet, gateway, machine, redis
from batchflow.cli.checks.check import Check, CheckContext, CheckResult, Level
from batchflow.cli.options import json_option
from batchflow.cli.output import echo, echo_json, grid
from batchflow.cli.store_session import with_store
from batchflow.errors import BatchflowError, StoreUnavailable
from batchflow.overview.formatting import count
from batchflow.overview.untrusted_text import one_line, printable
from batchflow.queue import QueueUnavailable
from batchflow.settings import load_settings

logger = logging.getLogger(__name__)

#: Timeout of one check, in seconds.
_TIMEOUT_S: Final = 15.0

#: Section -> its checks. Later sections depend on earlier ones.
_CHECKS: Final[Sequence[tuple[str, tuple[Check, ...]]]] = (
    ("Redis", (redis.connection, redis.server, redis.record_encoding)),
    ("Clocks", (machine.redis_clock, machine.openai_clock)),
    ("Celery", (fleet.broker, fleet.queues, fleet.workers, fleet.beat)),
    (
        "Jobs",
        (
            fleet.overdue_jobs,
            fleet.due_times,
            fleet.records,
            fleet.polls,
            fleet.uncollected_results,
        ),
    ),
    ("OpenAI", (credentials.credentials,)),
    ("Webhooks", (gateway.webhook_secrets, gateway.endpoints, gateway.deliveries)),
    ("Files", (machine.file_locations,)),
    ("Gateway", (gateway.settings, gateway.readiness)),
    ("Software", (machine.software,)),
)

_STYLES = {
    Level.OK: "green",
    Level.NOTE: "cyan",
    Level.WARNING: "yellow",
    Level.PROBLEM: "bold red",
}


@dataclass(frozen=True)
class Section:
    """The results about one part of the installation."""

    name: str
    #: Named as in the JSON output.
    findings: tuple[CheckResult, ...]


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check Redis, Celery, OpenAI, webhooks, files and the gateway.

    The checks are made from this machine, with its settings. Run them where a worker runs for the
    most complete result. Exits with 1 if there is a problem, with 0 if there are only warnings.
    """
    sections = with_store(lambda store: run_checks(CheckContext(load_settings(), store)))
    levels = Counter(result.level for section in sections for result in section.findings)
    problems, warnings = levels[Level.PROBLEM], levels[Level.WARNING]
    if as_json:
        echo_json(
            {
                "ok": not problems,
                "problems": problems,
                "warnings": warnings,
                "sections": [asdict(section) for section in sections],
            }
        )
    else:
        echo(Group(report(sections), _verdict(problems, warnings)), fit="wrap")
    context.exit(1 if problems else 0)


async def run_checks(context: CheckContext) -> list[Section]:
    """Run all checks concurrently."""
    return await asyncio.gather(*(_section(name, checks, context) for name, checks in _CHECKS))


def report(sections: Sequence[Section]) -> Table:
    """Align the results of all sections."""
    rows: list[Sequence[Text | str]] = []
    for section in sections:
        rows.append((Text(section.name, style="bold"), "", ""))
        for result in section.findings:
            level = Text(f"  {result.level}", style=_STYLES[result.level])
            rows.append((level, printable(result.what), one_line(result.seen)))
            if result.advice:
                rows.append(("", "", Text(one_line(result.advice), style="dim")))
        rows.append(("", "", ""))
    table = grid(rows)
    # Long names wrap, rather than leave no room for the rest.
    table.columns[1].no_wrap = False
    return table


async def _section(name: str, checks: tuple[Check, ...], context: CheckContext) -> Section:
    results = await asyncio.gather(*(_run(check, context) for check in checks))
    return Section(name, tuple(result for part in results for result in part))


async def _run(check: Check, context: CheckContext) -> list[CheckResult]:
    name = getattr(check, "__name__", "check").replace("_", " ")
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return list(await check(context))
    except TimeoutError:
        return [CheckResult(Level.PROBLEM, name, f"timed out after {_TIMEOUT_S:g} s")]
    except StoreUnavailable:
        return [CheckResult(Level.NOTE, name, "not checked: Redis is unavailable")]
    except QueueUnavailable:
        return [CheckResult(Level.NOTE, name, "not checked: Celery's broker is unavailable")]
    except BatchflowError as error:
        return [CheckResult(Level.PROBLEM, name, str(error))]
    except Exception as error:
        logger.debug("The check %s failed", name, exc_info=True)
        # Without the error's message, which may contain a secret.
        seen = f"the check failed with {type(error).__name__}"
        return [CheckResult(Level.PROBLEM, name, seen, "Please report this as a bug.")]


def _verdict(problems: int, warnings: int) -> Text:
    parts = [
        Text(count(number, noun), style=_STYLES[level])
        for number, noun, level in (
            (problems, "problem", Level.PROBLEM),
            (warnings, "warning", Level.WARNING),
        )
        if number
    ]
    return Text(", ").join(parts) + Text(".") if parts else Text("All is well.", style="green")
