"""Put what was measured into the README: ``python benchmarks/report.py``.

The table stands between two markers and is made of nothing but ``benchmarks/results/*.json``; the
charts are drawn from the same files. Whoever changes a figure by hand loses it with the next run.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.support import chart, results
from benchmarks.support.results import Bar, Result, number

#: In the order of the README.
NAMES = ("asking", "starting", "watching", "size", "files", "knowing")

_ROOT = Path(__file__).resolve().parent.parent
_README = _ROOT / "README.md"
_IMAGES = _ROOT / "docs" / "images"
_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"


class NoMarkers(Exception):
    """Raised when the README has no place for the figures."""


def main() -> int:
    """Draw the charts and write the table."""
    paths = [results.COMMITTED / f"{name}.json" for name in NAMES]
    measured = [results.read(path) for path in paths if path.exists()]
    missing = [path.stem for path in paths if not path.exists()]
    for result in measured:
        chart.draw(result, _IMAGES)
    try:
        text = with_figures(_README.read_text("utf-8"), markdown(measured, missing))
    except NoMarkers as error:
        print(error, file=sys.stderr)
        return 1
    _README.write_text(text, "utf-8")
    print(f"README.md has the figures of {', '.join(r.name for r in measured) or 'nothing yet'}.")
    return 0


def with_figures(readme: str, figures: str) -> str:
    """The README with these figures between its markers; raises NoMarkers."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise NoMarkers(
            f"README.md has no lines {_BEGIN} and {_END}. Put them where the figures belong."
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
    lines += [f"![{r.chart.title}](docs/images/bench-{r.name}.svg)" for r in measured]
    return "\n".join(lines)


def _row(bar: Bar) -> str:
    found = f"{number(bar.value)} {bar.unit}" + (f" ({bar.detail})" if bar.detail else "")
    holds = "holds" if bar.holds else "**falls short**"
    return f"| {bar.figure} | {found} | {bar.wanted} | {holds} |"


def _machine(measured: list[Result]) -> str:
    """What everything was measured on; once for each machine, if there were several."""
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
