"""Errors of single requests, from the lines of a batch's output and error files.

https://developers.openai.com/api/reference/resources/batches (the request output object)
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_FIRST_BAD_STATUS = 400


@dataclass(frozen=True)
class RequestError:
    """A kind of error, with the message of its first occurrence."""

    status: int | None
    code: str
    message: str
    count: int

    def data(self) -> dict[str, Any]:
        """Convert to JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """Such as ``429 rate_limit_exceeded: Slow down.``"""
        label = " ".join(str(part) for part in (self.status, self.code) if part)
        return ": ".join(part for part in (label, self.message) if part) or "no reason given"


class RequestErrorCounter:
    """Counts errors by status and code; their messages differ in details."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int | None, str]] = Counter()
        self._examples: dict[tuple[int | None, str], str] = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Count the line of a failed request."""
        status, code, message = _error(line) or (None, "", "")
        self._counts[status, code] += 1
        self._examples.setdefault((status, code), message)

    def most_common(self) -> tuple[RequestError, ...]:
        """All kinds of errors, most frequent first."""
        return tuple(
            RequestError(status, code, self._examples[status, code], count)
            for (status, code), count in self._counts.most_common()
        )


def is_error(line: Mapping[str, Any]) -> bool:
    """Whether a line is an error; some servers write errors into the output file."""
    return _error(line) is not None


def _error(line: Mapping[str, Any]) -> tuple[int | None, str, str] | None:
    """The status, code and message of a line that is an error."""
    response = line.get("response")
    response = response if isinstance(response, dict) else {}
    status = response.get("status_code")
    status = status if isinstance(status, int) else None
    body = response.get("body")
    error = line.get("error") or (body.get("error") if isinstance(body, dict) else None)
    if not error and (status is None or status < _FIRST_BAD_STATUS):
        return None
    if not isinstance(error, dict):
        return status, "", str(error or "")
    return (
        status,
        str(error.get("code") or error.get("type") or ""),
        str(error.get("message") or ""),
    )
