"""Text from OpenAI, Flyte and users, made safe to show on a page and in a terminal."""

import re
import sys

#: Control characters, and those that change the direction of writing: a message must not rearrange
#: the text around it, or control a terminal. Tabs and line ends stay.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Text of others, with unprintable characters replaced."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, max_chars: int = sys.maxsize) -> str:
    """Text of others in one line, cut after a number of characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= max_chars else line[: max_chars - 1] + "\N{HORIZONTAL ELLIPSIS}"
