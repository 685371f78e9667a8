"""Output of commands: aligned text for people, which scripts get unwrapped, and JSON."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from batchflow.overview.untrusted_text import printable
from batchflow.states import JobState

STATE_STYLES = {
    JobState.QUEUED: "cyan",
    JobState.RUNNING: "blue",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.RETRYABLE: "yellow",
    JobState.CANCELLED: "magenta",
}

#: Wider than any line, in characters.
_UNLIMITED = 100_000


def echo(content: RenderableType, *, fit: Literal["wrap", "truncate"] | None = None) -> None:
    """Print to stdout, in colour on a terminal.

    ``fit`` says what happens to lines that are longer than the terminal is wide. Without it, and
    without a terminal, they are printed in one piece, so that ids and secrets can be copied.
    """
    console = Console(highlight=False)
    terminal_width = console.width
    if not (fit == "wrap" and console.is_terminal):
        console.width = _UNLIMITED
    with console.capture() as capture:
        console.print(content)
    # Tables pad their last column with spaces.
    text = "\n".join(line.rstrip() for line in capture.get().removesuffix("\n").split("\n"))
    if fit == "truncate" and console.is_terminal:
        console.width = terminal_width
        console.print(Text.from_ansi(text), no_wrap=True, overflow="ellipsis")
    else:
        click.echo(text, color=True)


def echo_json(data: dict[str, Any]) -> None:
    """Print data for scripts."""
    click.echo(json.dumps(data, indent=2))


def grid(rows: Iterable[Sequence[Text | str]], *, header: Sequence[str] = ()) -> Table:
    """Align cells in columns, of which only the last one wraps."""
    table = Table.grid(padding=(0, 2, 0, 0))
    if header:
        table.add_row(*(Text(name, style="dim") for name in header))
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    for column in table.columns[:-1]:
        column.no_wrap = True
    return table


def pairs(rows: Iterable[tuple[str, Text | str | None]]) -> Table:
    """Align names and values, leaving out names without a value."""
    return grid(
        (Text(name, style="dim"), value if isinstance(value, Text) else printable(value))
        for name, value in rows
        if value
    )
