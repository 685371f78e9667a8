"""Every request of an input file, looked up in the files that came of it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from batchflow.requests.results import RequestError, RequestErrorCounter, is_error


@dataclass(frozen=True)
class ResultsAudit:
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


def audit_results(ids: list[str], output: Path | None, errors: Path | None) -> ResultsAudit:
    """Look every request up in both files, whichever there are."""
    lines: Counter[str] = Counter()
    answered: set[str] = set()
    failures = RequestErrorCounter()
    for path in (output, errors):
        for line in _objects(path) if path else ():
            custom_id = str(line.get("custom_id"))
            lines[custom_id] += 1
            if path is output and not is_error(line):
                answered.add(custom_id)
            else:
                failures.add(line)
    asked = set(ids)
    return ResultsAudit(
        requests=len(ids),
        answered=len(asked & answered),
        failed=len((asked & lines.keys()) - answered),
        unaccounted=len(asked - lines.keys()),
        duplicates=sum(number - 1 for number in lines.values()),
        unexpected=len(lines.keys() - asked),
        errors=failures.most_common(),
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
