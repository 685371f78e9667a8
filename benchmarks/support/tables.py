"""Print a result in a terminal."""

from rich.console import Console
from rich.table import Table

from benchmarks.support.results import OURS, Measured, Result, number


def show(result: Result, console: Console) -> None:
    """Print all quantities with their spread and ratios, then the goals."""
    console.print(_quantities(result))
    if result.bars:
        console.print(_bars(result))
    for note in result.notes:
        console.print(f"· {note}", style="dim", highlight=False)


def _quantities(result: Result) -> Table:
    table = Table(title=result.title, title_justify="left")
    for heading in ("figure", "case", "side"):
        table.add_column(heading)
    for heading in ("median", "least", "most", f"{OURS} : side"):
        table.add_column(heading, justify="right")
    places = list(dict.fromkeys((m.figure, m.case) for m in result.measured))
    figures = list(dict.fromkeys(m.figure for m in result.measured))
    ours = {(m.figure, m.case): m for m in result.measured if m.side == OURS}

    def place(measured: Measured) -> tuple[int, int]:
        case = (measured.figure, measured.case)
        return figures.index(measured.figure), places.index(case)

    for measured in sorted(result.measured, key=place):
        mine = ours.get((measured.figure, measured.case))
        table.add_row(
            measured.figure,
            measured.case,
            measured.side,
            f"{number(measured.median)} {measured.unit}" + (" *" if measured.computed else ""),
            number(min(measured.rounds)),
            number(max(measured.rounds)),
            _ratio(mine, measured),
        )
    if any(measured.computed for measured in result.measured):
        table.caption = "* computed, not measured"
    return table


def _ratio(ours: Measured | None, side: Measured) -> str:
    if ours is None or ours is side or not side.median:
        return ""
    return number(ours.median / side.median)


def _bars(result: Result) -> Table:
    table = Table(title="Goals", title_justify="left")
    for heading in ("figure", "measured", "goal", "met"):
        table.add_column(heading)
    for bar in result.bars:
        found = f"{number(bar.value)} {bar.unit}" + (f" ({bar.detail})" if bar.detail else "")
        table.add_row(bar.figure, found, bar.wanted, "[green]yes[/]" if bar.holds else "[red]no[/]")
    return table
