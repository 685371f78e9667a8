"""Values as people read them on the status page and the command line."""

import re
from datetime import datetime
from typing import Final

import humanize

#: From this number on, short forms are rounded.
_ROUNDED_FROM: Final = 10_000
#: ``bf-`` and this many characters distinguish jobs.
_ID_CHARS: Final = len("bf-") + 8

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
#: humanize's words, and their symbols: a table has no room for words.
_SYMBOLS: Final = {"second": "s", "minute": "min", "hour": "h", "day": "d"}
_MAGNITUDES: Final = {"thousand": "k", "million": "M", "billion": "B", "trillion": "T"}
_UNIT: Final = re.compile(rf"({'|'.join(_SYMBOLS)})s?( and|,)?")


def duration(seconds: float) -> str:
    """A measured duration: ``8.4 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < _MINUTE_S:
        return _compact(max(0.0, seconds), "seconds", "%.1f")
    return _compact(
        round(seconds), "seconds" if seconds < _HOUR_S else _smallest_unit(seconds), "%d"
    )


def between(earlier: datetime, later: datetime) -> str:
    """The time between two moments: ``45 s``, ``12 min``, ``2 h 5 min``, ``3 d 4 h``."""
    seconds = max(0, int((later - earlier).total_seconds()))
    return _compact(seconds, "seconds" if seconds < _MINUTE_S else _smallest_unit(seconds), "%d")


def ago(moment: datetime | None, now: datetime) -> str:
    """The age of a moment: ``12 s ago``, ``2 h 5 min ago``; ``never`` without one."""
    return f"{between(moment, now)} ago" if moment else "never"


def left(moment: datetime, now: datetime) -> str:
    """The time until a deadline: ``12 min left``, or ``overdue``."""
    return f"{between(now, moment)} left" if moment > now else "overdue"


def utc(moment: datetime) -> str:
    """``2026-07-04 12:03:22 UTC``."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def local_time(moment: datetime) -> str:
    """A time in the user's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def number(value: int) -> str:
    """``50,000``."""
    return humanize.intcomma(value)


def count(value: int, noun: str, plural: str = "") -> str:
    """``1 batch``, ``2,000 batches``."""
    return f"{number(value)} {noun if value == 1 else plural or noun + 's'}"


def short_number(value: int) -> str:
    """``9,999``, then ``12.3 k``, ``1.2 M``."""
    if value < _ROUNDED_FROM:
        return number(value)
    rounded, _, magnitude = humanize.intword(value).partition(" ")
    return f"{rounded} {_MAGNITUDES.get(magnitude, magnitude)}"


def percent(part: int, whole: int) -> str:
    """``62%``; ``100%`` only if nothing is missing."""
    return f"{100 * part // whole}%"


def size(value_bytes: int) -> str:
    """``512 Bytes``, ``34.1 kB``, ``1.2 MB``."""
    return humanize.naturalsize(value_bytes)


def short_id(job_id: str) -> str:
    """The beginning of a job's id, and its generation: ``bf-mctgn4lc``, ``bf-mctgn4lc…-2``."""
    _, _, generation = job_id.removeprefix("bf-").partition("-")
    return job_id[:_ID_CHARS] + (f"…-{generation}" if generation else "")


def execution_name(execution: str) -> str:
    """The name of the execution in ``<project>/<domain>/<execution>/<node>``."""
    parts = execution.split("/")
    return parts[2] if len(parts) > 2 else execution


def execution_location(execution: str) -> str:
    """The rest of an execution: ``<project> · <domain> · <node>``."""
    parts = execution.split("/")
    return " · ".join([*parts[:2], *parts[3:]])


def words(name: str) -> str:
    """``in_progress`` as ``in progress``."""
    return name.replace("_", " ")


def _smallest_unit(seconds: float) -> str:
    """The smallest unit to show of a duration of a minute or more."""
    return "minutes" if seconds < _DAY_S else "hours"


def _compact(seconds: float, smallest_unit: str, number_format: str) -> str:
    words = humanize.precisedelta(
        seconds, minimum_unit=smallest_unit, suppress=["months", "years"], format=number_format
    )
    return _UNIT.sub(lambda match: _SYMBOLS[match[1]], words)
