"""Draw the chart of a result as SVG: bars in groups, with the spread of the rounds.

It has no background, so that it is readable in light and in dark mode.
"""

import math
from collections.abc import Callable
from html import escape
from pathlib import Path

import svg

from benchmarks.support.results import OURS, Measured, Result, number

#: All lengths in pixels.
_WIDTH = 760
_TOP = 44
_BAR = 16
_GAP = 4
_GROUP_GAP = 14
_LEGEND = 22
#: The space for the value at the end of a bar.
_RIGHT = 150
#: The approximate width of a character; the font depends on the reader's machine.
_CHARACTER = 6.5

#: The colours of Batchflow's variants, and of the other sides.
_OURS = ("#2f81f7", "#56d4dd", "#1f6feb")
_OTHERS = ("#8b949e", "#d29922", "#a371f7")
_STYLE = """
text { font: 12px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a; }
text.title { font-size: 15px; font-weight: 600; }
line { stroke: #57606a; stroke-width: 1; }
line.axis { stroke-opacity: .5; }
@media (prefers-color-scheme: dark) {
  text { fill: #adbac7; }
  line { stroke: #adbac7; }
}
"""


def draw(result: Result, folder: Path) -> Path:
    """Write the chart into a folder and return its path."""
    shown = [m for m in result.measured if m.figure == result.chart.figure]
    cases = list(dict.fromkeys(m.case for m in shown))
    colours = _colours(shown)
    left = max(len(case) for case in cases) * _CHARACTER + 14
    scale = _scale(shown, _WIDTH - left - _RIGHT, log=result.chart.log)
    unit = " (logarithmic scale)" if result.chart.log else ""
    elements: list[svg.Element] = [svg.Style(text=_STYLE)]
    elements.append(_text(0, 18, f"{result.chart.title}{unit}", "title"))
    y = _TOP
    for case in cases:
        bars = [m for m in shown if m.case == case]
        middle = y + len(bars) * (_BAR + _GAP) / 2 + 2
        elements.append(_text(left - 10, middle, case, anchor="end"))
        for measured in bars:
            elements += _bar(measured, left, y, scale, colours[measured.side])
            y += _BAR + _GAP
        y += _GROUP_GAP
    elements.append(svg.Line(x1=left, y1=_TOP - 6, x2=left, y2=y - 8, class_=["axis"]))
    legend, height = _legend(colours, y + 4)
    image = svg.SVG(
        width=_WIDTH,
        height=height,
        viewBox=svg.ViewBoxSpec(0, 0, _WIDTH, height),
        elements=[svg.Title(text=escape(_description(result, shown))), *elements, *legend],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / result.chart_file
    path.write_text(f"{image}\n", "utf-8")
    return path


def _colours(shown: list[Measured]) -> dict[str, str]:
    """The colour of each side."""
    sides = list(dict.fromkeys(m.side for m in shown))
    ours = [side for side in sides if side.startswith(OURS)]
    others = [side for side in sides if side not in ours]
    paired = [*zip(ours, _OURS, strict=False), *zip(others, _OTHERS, strict=False)]
    found = dict(paired)
    return {side: found[side] for side in sides}


def _scale(shown: list[Measured], room: float, *, log: bool) -> Callable[[float], float]:
    """Return a function from a value to the length of its bar."""
    most = max((max(m.rounds) for m in shown), default=1) or 1
    if not log:
        return lambda value: value / most * room
    least = min((value for m in shown for value in m.rounds if value > 0), default=1)
    bottom = math.floor(math.log10(least)) - 0.3
    span = math.log10(most) - bottom
    return lambda value: (math.log10(value) - bottom) / span * room if value > 0 else 0.0


def _bar(
    measured: Measured, left: float, y: float, scale: Callable[[float], float], colour: str
) -> list[svg.Element]:
    length = scale(measured.median)
    least, most = scale(min(measured.rounds)), scale(max(measured.rounds))
    middle = y + _BAR / 2
    found: list[svg.Element] = [
        svg.Rect(
            x=round(left, 1), y=y, width=round(max(length, 1), 1), height=_BAR, rx=2, fill=colour
        )
    ]
    if most - least > 1:
        found.append(_line(left + least, middle, left + most, middle))
        found += [_line(left + end, middle - 4, left + end, middle + 4) for end in (least, most)]
    value = f"{number(measured.median)} {measured.unit}"
    computed = " (computed)" if measured.computed else ""
    return [*found, _text(left + max(length, most) + 6, middle + 4, value + computed)]


def _legend(colours: dict[str, str], y: float) -> tuple[list[svg.Element], float]:
    """Return the sides with their colours, in as many rows as necessary, and the lower edge."""
    found: list[svg.Element] = []
    x = 0.0
    for side, colour in colours.items():
        width = 34 + _CHARACTER * len(side)
        if x + width > _WIDTH:
            x, y = 0.0, y + _LEGEND
        found.append(svg.Rect(x=round(x, 1), y=y, width=11, height=11, rx=2, fill=colour))
        found.append(_text(x + 16, y + 10, side))
        x += width
    return found, y + _LEGEND


def _line(x1: float, y1: float, x2: float, y2: float) -> svg.Element:
    return svg.Line(x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> svg.Element:
    return svg.Text(
        x=round(x, 1),
        y=round(y, 1),
        text=escape(text),
        class_=[kind] if kind else None,
        text_anchor="end" if anchor == "end" else None,
    )


def _description(result: Result, shown: list[Measured]) -> str:
    """Describe the chart in words, for screen readers."""
    values = "; ".join(
        f"{m.case}, {m.side}: {number(m.median)} {m.unit}" for m in shown if m.side == OURS
    )
    return f"{result.chart.title}. {values}"
