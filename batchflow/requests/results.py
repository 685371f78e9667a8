"""The requests of a batch that failed, as the lines of its files tell of them.

https://developers.openai.com/api/reference/resources/batches (the request output object)
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FIRST_BAD_STATUS = 400


@dataclass(frozen=True)
class RequestError:
    """One kind of error, with the first message that had it."""

    status: int | None
    code: str
    message: str
    count: int

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "count": self.count,
        }

    @property
    def words(self) -> str:
        """``429 rate_limit_exceeded: Slow down.``"""
        what = " ".join(str(part) for part in (self.status, self.code) if part)
        return ": ".join(part for part in (what, self.message) if part) or "no reason given"


class Errors:
    """Counts the kinds of errors: by status and code, whose messages differ in details."""

    def __init__(self) -> None:
        self._kinds: Counter[tuple[int | None, str]] = Counter()
        self._examples: dict[tuple[int | None, str], str] = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line that stands for a failed request."""
        status, code, message = _error(line) or (None, "", "")
        self._kinds[status, code] += 1
        self._examples.setdefault((status, code), message)

    def by_frequency(self) -> tuple[RequestError, ...]:
        """Most frequent first."""
        return tuple(
            RequestError(status, code, self._examples[status, code], number)
            for (status, code), number in self._kinds.most_common()
        )


def is_error(line: Mapping[str, Any]) -> bool:
    """Whether a line of an output file is an error all the same, as some servers write it."""
    return _error(line) is not None


def _error(line: Mapping[str, Any]) -> tuple[int | None, str, str] | None:
    """Status, code and message of a result that is an error."""
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
