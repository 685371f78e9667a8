"""``batchflow doctor``: what is well, what is not, and what to do about it."""

import json
import textwrap
from collections import Counter
from dataclasses import asdict

import click
from rich.console import Console
from rich.text import Text

from batchflow.cli.checks.check import CheckContext, CheckResult, Level
from batchflow.cli.checks.run_checks import Section, run_checks
from batchflow.cli.store_session import ask
from batchflow.cli.text import count, printable
from batchflow.settings import load_settings

_COLOURS = {
    Level.OK: "green",
    Level.NOTE: "cyan",
    Level.WARNING: "yellow",
    Level.PROBLEM: "bold red",
}
_LEVEL_CHARS = max(map(len, Level))
#: No column of names is wider.
_MOST_NAME_CHARS = 40


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print data.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check Redis, Celery, OpenAI, webhooks, files and the gateway, and say what to do.

    It looks from this machine, with this machine's settings: run it where a worker runs for the
    fullest answer. Exits with 1 if there is a problem, and with 0 if there are only warnings.
    """
    sections = ask(lambda store: run_checks(CheckContext(load_settings(), store)))
    levels = Counter(finding.level for section in sections for finding in section.findings)
    problems, warnings = levels[Level.PROBLEM], levels[Level.WARNING]
    if as_json:
        data = {
            "ok": not problems,
            "problems": problems,
            "warnings": warnings,
            "sections": [asdict(section) for section in sections],
        }
        click.echo(json.dumps(data, indent=2))
    else:
        console = Console(highlight=False)
        width = console.width if console.is_terminal else None
        console.print(view(sections, width), soft_wrap=True)
        console.print(_verdict(problems, warnings))
    context.exit(1 if problems else 0)


def view(sections: list[Section], width: int | None) -> Text:
    """All findings; ``width`` breaks lines between words."""
    names = [len(finding.what) for section in sections for finding in section.findings]
    name_chars = min(max(names, default=0), _MOST_NAME_CHARS)
    lines = []
    for section in sections:
        lines.append(Text(section.name, style="bold"))
        for finding in section.findings:
            lines += _lines(finding, name_chars, width)
        lines.append(Text())
    return Text("\n").join(lines)


def _lines(finding: CheckResult, name_chars: int, width: int | None) -> list[Text]:
    indent = 2 + _LEVEL_CHARS + 2 + name_chars + 2
    # On a narrow terminal the words get room all the same.
    room = max(30, width - indent) if width else None
    seen = _wrapped(finding.seen, room)
    lead = Text("  ")
    lead.append(finding.level.ljust(_LEVEL_CHARS + 2), style=_COLOURS[finding.level])
    lead.append(printable(finding.what).ljust(name_chars + 2))
    lead.append(seen[0])
    advice = [Text(" " * indent + line, style="dim") for line in _wrapped(finding.advice, room)]
    return [lead, *(Text(" " * indent + line) for line in seen[1:]), *advice]


def _wrapped(words: str, room: int | None) -> list[str]:
    line = printable(" ".join(words.split()))
    if room is None:
        return [line] if line else []
    return textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False)


def _verdict(problems: int, warnings: int) -> Text:
    parts = [
        Text(count(number, noun), style=_COLOURS[level])
        for number, noun, level in (
            (problems, "problem", Level.PROBLEM),
            (warnings, "warning", Level.WARNING),
        )
        if number
    ]
    return Text(", ").join(parts) + Text(".") if parts else Text("All is well.", style="green")
