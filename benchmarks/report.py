"""Write the measurements into docs/performance.md and docs/sizing.md.

Run it with ``python benchmarks/report.py``.

The tables between the markers, and the charts, are generated from ``benchmarks/results/*.json``.
The next run overwrites manual changes.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.support import chart, operators, results
from benchmarks.support.results import Bar, Result, number

#: In the order of docs/performance.md.
NAMES = ("get_throughput", "create_burst", "polling_cost", "size", "files", "completion_latency")
#: Only for docs/sizing.md: it compares nothing and has no bars.
SUBMIT_THROUGHPUT = "submit_throughput"

_ROOT = Path(__file__).resolve().parent.parent
_PERFORMANCE = _ROOT / "docs" / "performance.md"
_SIZING = _ROOT / "docs" / "sizing.md"
_IMAGES = _ROOT / "docs" / "images"


class NoMarkers(Exception):
    """Raised when a page has no markers for a table."""


def main() -> int:
    """Draw the charts and write the tables."""
    paths = {name: results.COMMITTED / f"{name}.json" for name in (*NAMES, SUBMIT_THROUGHPUT)}
    measured = [results.read(path) for path in paths.values() if path.exists()]
    for result in measured:
        chart.draw(result, _IMAGES)
    shown = [result for result in measured if result.name != SUBMIT_THROUGHPUT]
    missing = [name for name in NAMES if not paths[name].exists()]
    try:
        _write(_PERFORMANCE, {"bench": markdown(shown, missing)})
        _write(_SIZING, operators.tables(measured) | {"machine": _machine(measured)})
    except NoMarkers as error:
        print(error, file=sys.stderr)
        return 1
    names = ", ".join(result.name for result in measured) or "nothing yet"
    print(f"docs/performance.md and docs/sizing.md have the figures of {names}.")
    return 0


def _write(page: Path, tables: Mapping[str, str]) -> None:
    """Put each table between its markers."""
    text = page.read_text("utf-8")
    for name, figures in tables.items():
        text = with_figures(text, figures, name, page.name)
    page.write_text(text, "utf-8")


def with_figures(text: str, figures: str, name: str, page: str) -> str:
    """Return the page with these figures between the markers of this name.

    Raises:
        NoMarkers: The page does not have the markers.
    """
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise NoMarkers(
            f"{page} has no lines {first} and {last}. Add them where the table should be."
        )
    return f"{before}{begin}\n{figures}\n{end}{after}"


def markdown(measured: list[Result], missing: list[str]) -> str:
    """The table, what it was measured on, and the charts."""
    lines = ["| figure | measured | goal | |", "|---|---|---|---|"]
    for result in measured:
        lines += [_row(bar) for bar in result.bars]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", _machine(measured), ""]
    lines += [f"![{r.chart.title}](images/{r.chart_file})" for r in measured]
    return "\n".join(lines)


def _row(bar: Bar) -> str:
    found = f"{number(bar.value)} {bar.unit}" + (f" ({bar.detail})" if bar.detail else "")
    met = "met" if bar.holds else "**not met**"
    return f"| {bar.figure} | {found} | {bar.wanted} | {met} |"


def _machine(measured: list[Result]) -> str:
    """Describe the machines that the results were measured on."""
    if not measured:
        return "Not measured yet: `make bench` does it."
    machines: dict[str, list[str]] = {}
    for result in measured:
        about = result.machine
        machine = (
            f"{about['cores']} cores ({about['cpu']}), {about['memory']} of memory, "
            f"Python {about['python']}, Redis {about['redis-server']}, "
            f"flytekit {about['flytekit']}, openai {about['openai']}, {result.at[:10]}"
        )
        machines.setdefault(machine, []).append(result.name)
    if len(machines) == 1:
        return f"Measured on {next(iter(machines))}. `make bench` repeats it."
    parts = [f"{', '.join(names)} on {machine}" for machine, names in machines.items()]
    return f"Measured: {'; '.join(parts)}. `make bench` repeats it."


if __name__ == "__main__":
    sys.exit(main())
