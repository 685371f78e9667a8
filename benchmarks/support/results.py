"""Results of benchmarks, in JSON; the tables and charts in docs/ are generated from them."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: The results that docs/performance.md shows.
COMMITTED = Path(__file__).resolve().parent.parent / "results"

#: The sides that most figures compare.
OURS = "Batchflow"
OLD = "flytekitplugins-openai"


@dataclass(frozen=True)
class Measured:
    """One quantity of one side, once per round."""

    #: The quantity, such as ``GetTask per second``.
    figure: str
    #: The conditions, such as ``50 callers``.
    case: str
    side: str
    unit: str
    rounds: tuple[float, ...]
    #: Calculated from measurements; the notes say how.
    computed: bool = False

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Bar:
    """A goal and the measured value."""

    figure: str
    value: float
    limit: float
    #: Whether the limit is a minimum.
    at_least: bool
    unit: str
    #: How the value was calculated, such as ``1,800 against 40 per second``.
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Whether the goal is met."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"at {'least' if self.at_least else 'most'} {number(self.limit)} {self.unit}".strip()


@dataclass(frozen=True)
class Chart:
    """The figure that the chart in docs/performance.md shows."""

    figure: str
    title: str
    log: bool = False


@dataclass(frozen=True)
class Result:
    """One run of one benchmark."""

    name: str
    title: str
    command: str
    #: When it was measured, ISO 8601.
    at: str
    machine: dict[str, str]
    parameters: dict[str, Any]
    measured: tuple[Measured, ...]
    bars: tuple[Bar, ...]
    chart: Chart
    notes: tuple[str, ...] = field(default=())

    @property
    def chart_file(self) -> str:
        """The file name of its chart."""
        return f"bench-{self.name.replace('_', '-')}.svg"

    def of(self, figure: str, case: str, side: str) -> Measured:
        """One of the quantities."""
        return next(m for m in self.measured if (m.figure, m.case, m.side) == (figure, case, side))


def write(result: Result, folder: Path) -> Path:
    """Write a result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def read(path: Path) -> Result:
    """Read a result."""
    fields = json.loads(path.read_text("utf-8"))
    measured = [
        Measured(**entry | {"rounds": tuple(entry["rounds"])}) for entry in fields["measured"]
    ]
    return Result(
        **fields
        | {
            "measured": tuple(measured),
            "bars": tuple(Bar(**entry) for entry in fields["bars"]),
            "chart": Chart(**fields["chart"]),
            "notes": tuple(fields["notes"]),
        }
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def number(value: float) -> str:
    """Format a number with three significant digits and thousands separators."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
