"""Put what was measured into the README and docs/operations.md: ``python benchmarks/report.py``.

The tables stand between markers and are made of nothing but ``benchmarks/results/*.json``; the
charts are drawn from the same files. Whoever changes a figure by hand loses it with the next run.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.support import chart, operators, results
from benchmarks.support.results import Bar, Result, number

#: In the order of the README.
NAMES = ("get_throughput", "create_burst", "polling_cost", "size", "files", "completion_latency")
#: For operators alone: it compares with nothing, and has no bar.
SUBMIT_THROUGHPUT = "submit_throughput"

_ROOT = Path(__file__).resolve().parent.parent
_README = _ROOT / "README.md"
_OPERATIONS = _ROOT / "docs" / "operations.md"
_IMAGES = _ROOT / "docs" / "images"


class NoMarkers(Exception):
    """Raised when a page has no place for the figures."""


def main() -> int:
    """Draw the charts and write the tables."""
    paths = {name: results.COMMITTED / f"{name}.json" for name in (*NAMES, SUBMIT_THROUGHPUT)}
    measured = [results.read(path) for path in paths.values() if path.exists()]
    for result in measured:
        chart.draw(result, _IMAGES)
    shown = [result for result in measured if result.name != SUBMIT_THROUGHPUT]
    missing = [name for name in NAMES if not paths[name].exists()]
    try:
        _write(_README, {"bench": markdown(shown, missing)})
        _write(_OPERATIONS, operators.tables(measured) | {"machine": _machine(measured)})
    except NoMarkers as error:
        print(error, file=sys.stderr)
        return 1
    told = ", ".join(result.name for result in measured) or "nothing yet"
    print(f"README.md and docs/operations.md have the figures of {told}.")
    return 0


def _write(page: Path, tables: Mapping[str, str]) -> None:
    """Put each table between its markers."""
    text = page.read_text("utf-8")
    for name, figures in tables.items():
        text = with_figures(text, figures, name, page.name)
    page.write_text(text, "utf-8")


def with_figures(text: str, figures: str, name: str, page: str) -> str:
    """A page with these figures between the markers of this name; raises NoMarkers."""
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise NoMarkers(
            f"{page} has no lines {first} and {last}. Put them where the figures belong."
        )
    return f"{before}{begin}\n{figures}\n{end}{after}"


def markdown(measured: list[Result], missing: list[str]) -> str:
    """The table, what it was measured on, and the charts."""
    lines = ["| figure | measured | wanted | |", "|---|---|---|---|"]
    for result in measured:
        lines += [_row(bar) for bar in result.bars]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", _machine(measured), ""]
    lines += [f"![{r.chart.title}](docs/images/{r.chart_file})" for r in measured]
    return "\n".join(lines)


def _row(bar: Bar) -> str:
    found = f"{number(bar.value)} {bar.unit}" + (f" ({bar.detail})" if bar.detail else "")
    holds = "holds" if bar.holds else "**falls short**"
    return f"| {bar.figure} | {found} | {bar.wanted} | {holds} |"


def _machine(measured: list[Result]) -> str:
    """What everything was measured on; once for each machine, if there were several."""
    if not measured:
        return "Not measured yet: `make bench` does it."
    machines: dict[str, list[str]] = {}
    for result in measured:
        about = result.machine
        told = (
            f"{about['cores']} cores ({about['cpu']}), {about['memory']} of memory, "
            f"Python {about['python']}, Redis {about['redis-server']}, "
            f"flytekit {about['flytekit']}, openai {about['openai']}, {result.at[:10]}"
        )
        machines.setdefault(told, []).append(result.name)
    if len(machines) == 1:
        return f"Measured on {next(iter(machines))}. `make bench` repeats it."
    parts = [f"{', '.join(names)} on {told}" for told, names in machines.items()]
    return f"Measured: {'; '.join(parts)}. `make bench` repeats it."


if __name__ == "__main__":
    sys.exit(main())
