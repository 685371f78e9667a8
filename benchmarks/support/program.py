"""The common parts of the programs: options, signals, and output of the result."""

import argparse
import shlex
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from benchmarks.support import chart, machine, results, tables
from benchmarks.support.results import Bar, Chart, Measured, Result

#: Rich's default without a terminal is 80 columns, too few for the tables.
_COLUMNS = 140
_IMAGES = Path(__file__).resolve().parent.parent.parent / "docs" / "images"


class Program:
    """One benchmark: its options, its measurement, its result."""

    def __init__(self, name: str, title: str, doc: str | None) -> None:
        self.name = name
        self.title = title
        self.console = Console(width=None if sys.stdout.isatty() else _COLUMNS)
        self.parser = argparse.ArgumentParser(
            description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        self.parser.add_argument(
            "--out",
            type=Path,
            help="write the JSON and the chart to this folder instead of the committed ones",
        )
        self._options: dict[str, Any] = {}

    def option(self, name: str, default: Any, text: str, *, several: bool = False) -> None:
        """Add an option with the type of its default, or of the first default."""
        kind = type(default[0] if several else default)
        nargs = "+" if several else None
        self.parser.add_argument(name, type=kind, default=default, help=text, nargs=nargs)

    def say(self, text: str) -> None:
        """Print a progress message."""
        self.console.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/] {text}", highlight=False)

    def result(
        self, measured: list[Measured], bars: list[Bar], drawn: Chart, notes: list[str]
    ) -> Result:
        """Return the result, with what is needed to repeat it."""
        return Result(
            name=self.name,
            title=self.title,
            command=shlex.join(["python", f"benchmarks/bench_{self.name}.py", *sys.argv[1:]]),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine.describe(),
            parameters=self._options,
            measured=tuple(measured),
            bars=tuple(bars),
            chart=drawn,
            notes=tuple(notes),
        )

    def run(self, measure: Callable[[argparse.Namespace], Result]) -> int:
        """Measure, then print, write and draw the result. A missed goal is not an error."""
        options = self.parser.parse_args()
        self._options = {
            name: value for name, value in sorted(vars(options).items()) if name != "out"
        }
        signal.signal(signal.SIGTERM, _leave)
        # flytekit replaces the handler.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            result = measure(options)
        except KeyboardInterrupt:
            self.console.print("Interrupted; nothing was written.")
            return 130
        tables.show(result, self.console)
        path = results.write(result, options.out or results.COMMITTED)
        image = chart.draw(result, options.out or _IMAGES)
        self.console.print(f"Wrote {path} and {image}.", highlight=False, soft_wrap=True)
        return 0


def _leave(number: int, frame: FrameType | None) -> None:
    """Exit normally, so that all processes are stopped."""
    raise SystemExit(128 + number)
