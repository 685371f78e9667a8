"""How values are shown on the page: ages, numbers, sizes, ids, and others' words."""

import re
from datetime import datetime
from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400

#: From here on a number is rounded where there is little room.
_ROUNDED: Final = 10_000
_STEP: Final = 1_000
_THOUSANDS: Final = ("k", "M", "B", "T")
_BYTES: Final = ("kB", "MB", "GB", "TB")
#: Below this a number is shown with one digit after the point.
_TWO_DIGITS: Final = 10
#: As much of a message as a row of the table may hold, of which it shows a part.
_LINE_CHARS: Final = 300
#: ``bf-`` and so many characters tell jobs apart.
_ID_CHARS: Final = len("bf-") + 8

#: Control characters, and those that turn the direction of writing: a message must not be able to
#: rearrange what stands around it. Tabs and line ends stay.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def clean(value: object) -> object:
    """Others' words, without what is not to be seen; every value on a page goes through here."""
    # Markup, which is a str too, is made of values that went through here.
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value


def span(seconds: float) -> str:
    """``45 s``, ``12 min``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, int(seconds))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def between(earlier: datetime, later: datetime) -> str:
    """How long it is from one to the other, as :func:`span` says it."""
    return span((later - earlier).total_seconds())


def ago(moment: datetime, now: datetime) -> str:
    """``12 min ago``."""
    return f"{between(moment, now)} ago"


def left(moment: datetime, now: datetime) -> str:
    """``12 min left``, or that there is nothing left."""
    return f"{between(now, moment)} left" if moment > now else "overdue"


def utc(moment: datetime) -> str:
    """``2026-07-04 12:03:22 UTC``."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def number(value: int) -> str:
    """``50,000``."""
    return f"{value:,}"


def count(value: int, one: str, many: str) -> str:
    """``1 batch``, ``2,000 batches``."""
    return f"{number(value)} {one if value == 1 else many}"


def rounded(value: int) -> str:
    """``9,999``, then ``12 k``, ``1.2 M``, ``340 M``."""
    return number(value) if value < _ROUNDED else _scaled(value, _THOUSANDS)


def percent(part: int, whole: int) -> str:
    """``62%``; ``100%`` only when nothing is missing."""
    return f"{100 * part // whole}%"


def size(value_bytes: int) -> str:
    """``512 bytes``, ``34 kB``, ``1.2 MB``."""
    if value_bytes < _STEP:
        return "1 byte" if value_bytes == 1 else f"{value_bytes} bytes"
    return _scaled(value_bytes, _BYTES)


def short_id(job_id: str) -> str:
    """The beginning of a job's id, and its generation: ``bf-mctgn4lc``, ``bf-mctgn4lc…-2``."""
    _, _, generation = job_id.removeprefix("bf-").partition("-")
    return job_id[:_ID_CHARS] + (f"…-{generation}" if generation else "")


def execution_name(execution: str) -> str:
    """Flyte's name of the execution in ``<project>/<domain>/<execution>/<node>``."""
    parts = execution.split("/")
    return parts[2] if len(parts) > 2 else execution


def execution_place(execution: str) -> str:
    """Where an execution is: ``<project> <domain> <node>``."""
    parts = execution.split("/")
    return " · ".join([*parts[:2], *parts[3:]])


def words(name: str) -> str:
    """``in_progress`` as ``in progress``."""
    return name.replace("_", " ")


def one_line(text: str) -> str:
    """Others' words where there is room for a few; the job's page has them all."""
    line = " ".join(text.split())
    return line if len(line) <= _LINE_CHARS else line[: _LINE_CHARS - 1] + "…"


def _scaled(value: int, units: tuple[str, ...]) -> str:
    power = 1
    # What would be rounded up to the next unit is shown in it.
    while round(value / _STEP**power) >= _STEP and power < len(units):
        power += 1
    scaled, unit = value / _STEP**power, units[power - 1]
    return f"{scaled:.1f} {unit}" if round(scaled, 1) < _TWO_DIGITS else f"{scaled:,.0f} {unit}"
