"""Every request of an input file, looked up in the files that came of it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

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


@dataclass(frozen=True)
class Account:
    """Where the requests of an input file are."""

    requests: int
    #: Requests with an answer, requests with nothing but an error, requests with neither.
    answered: int
    failed: int
    unaccounted: int
    #: Lines beyond the first of a request, and lines of no request.
    duplicates: int
    unexpected: int
    #: Most frequent first.
    errors: tuple[RequestError, ...]


def request_ids(path: Path) -> list[str]:
    """The ``custom_id`` of each request; one that has none counts by its line."""
    return [
        str(request.get("custom_id", f"line {number}"))
        for number, request in enumerate(_objects(path), start=1)
    ]


def account_for(ids: list[str], output: Path | None, errors: Path | None) -> Account:
    """Look every request up in both files, whichever there are."""
    lines: Counter[str] = Counter()
    answered: set[str] = set()
    kinds: Counter[tuple[int | None, str]] = Counter()
    examples: dict[tuple[int | None, str], str] = {}
    for path in (output, errors):
        for line in _objects(path) if path else ():
            custom_id = str(line.get("custom_id"))
            lines[custom_id] += 1
            error = _error(line)
            if error is None and path is output:
                answered.add(custom_id)
                continue
            status, code, message = error or (None, "", "")
            kinds[status, code] += 1
            examples.setdefault((status, code), message)
    asked = set(ids)
    return Account(
        requests=len(ids),
        answered=len(asked & answered),
        failed=len((asked & lines.keys()) - answered),
        unaccounted=len(asked - lines.keys()),
        duplicates=sum(number - 1 for number in lines.values()),
        unexpected=len(lines.keys() - asked),
        errors=tuple(
            RequestError(status, code, examples[status, code], number)
            for (status, code), number in kinds.most_common()
        ),
    )


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if not content.strip():
                continue
            try:
                value = orjson.loads(content)
            except orjson.JSONDecodeError:
                # Only where nothing is checked; it is a request, or an answer, all the same.
                value = None
            yield value if isinstance(value, dict) else {}


def _error(line: dict[str, Any]) -> tuple[int | None, str, str] | None:
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
