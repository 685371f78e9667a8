"""Numbers, times and others' words, for people."""

from datetime import datetime

_MINUTE_S = 60
_HOUR_S = 3_600
_DAY_S = 86_400


def printable(text: str) -> str:
    """Others' words, without what would drive the terminal. Line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: str, limit: int) -> str:
    """Others' words in one line of at most ``limit`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def count(number: int, noun: str) -> str:
    """``1 request``, ``2,000 requests``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """``8.4 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def ago(moment: datetime, now_s: float) -> str:
    """``just now``, ``12 s ago``, ``3 min ago``, ``2 h ago``, ``4 d ago``."""
    seconds = int(now_s - moment.timestamp())
    for unit_s, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min"), (1, "s")):
        if seconds >= unit_s:
            return f"{seconds // unit_s} {name} ago"
    return "just now"


def time_left(moment: datetime, now_s: float) -> str:
    """``3 h 5 min left``, or that the time is over."""
    seconds = moment.timestamp() - now_s
    return f"{duration(seconds)} left" if seconds > 0 else "time is over"


def local_time(moment: datetime) -> str:
    """A time on the user's clock."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
