"""A realistic input file of a batch: chat requests with texts of several sentences."""

import random
from pathlib import Path

import orjson

_MODEL = "gpt-4o-mini"
_SYSTEM = "You sort messages to a shop. Answer with one of: order, refund, delivery, praise, other."
_SENTENCES = (
    "I ordered a pair of boots three weeks ago and they still haven't arrived.",
    "The tracking page says \u201cout for delivery\u201d since Tuesday, which can't be right.",
    "Could you tell me where the parcel is, or send another one?\n\n",
    "Die Verpackung war besch\u00e4digt, der Inhalt aber in Ordnung.",
    "My order number is 20417-B; I paid by card on the 3rd of March.",
    "Everything else was lovely \U0001f600, the colours are just as in the picture.\n",
    'The invoice names "Size 42" and the box says "Size 41".',
    "If there is nothing left in my size I would rather have the money back.",
)


def write(path: Path, *, lines: int, size_bytes: int) -> None:
    """Write valid lines with about this total size; the content is always the same."""
    rng = random.Random(lines)
    wanted_bytes = size_bytes // lines
    sentences = [orjson.dumps(sentence)[1:-1] for sentence in _SENTENCES]
    with path.open("wb") as file:
        for number in range(lines):
            head, tail = _around(number)
            text_bytes = wanted_bytes - len(head) - len(tail)
            text = b""
            while len(text) < text_bytes:
                text += rng.choice(sentences) + b" "
            # Do not split an escape sequence or a multi-byte character.
            kept = text[:text_bytes].decode("utf-8", "ignore").rstrip("\\").encode()
            file.write(head + kept + tail)


def _around(number: int) -> tuple[bytes, bytes]:
    """The parts of a line before and after its text."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "@"}]
    line = orjson.dumps(
        {
            "custom_id": f"message-{number:06d}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": _MODEL, "temperature": 0, "max_tokens": 8, "messages": messages},
        }
    )
    head, _, tail = line.partition(b"@")
    return head, tail + b"\n"
