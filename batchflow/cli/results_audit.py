"""An audit of a batch's result files: whether each request has a result."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from batchflow.requests.results import RequestError, RequestErrorCounter, is_error


@dataclass(frozen=True)
class ResultsAudit:
    """The requests of an input file, counted by what the result files say about them."""

    requests: int
    answered: int
    #: Requests whose only results are errors.
    failed: int
    #: Requests without any result.
    unaccounted: int
    #: Results beyond the first of a request.
    duplicates: int
    #: Results with a ``custom_id`` that no request has.
    unexpected: int
    #: Most frequent first.
    errors: tuple[RequestError, ...]


def request_ids(path: Path) -> list[str]:
    """Return each request's ``custom_id``, or ``line <n>`` for a request without one."""
    return [
        str(request.get("custom_id", f"line {number}"))
        for number, request in enumerate(_objects(path), start=1)
    ]


def audit_results(ids: list[str], output: Path | None, errors: Path | None) -> ResultsAudit:
    """Look up every request in the result files; either file may be missing."""
    results: Counter[str] = Counter()
    answered: set[str] = set()
    failures = RequestErrorCounter()
    for path in (output, errors):
        for result in _objects(path) if path else ():
            custom_id = str(result.get("custom_id"))
            results[custom_id] += 1
            if path is output and not is_error(result):
                answered.add(custom_id)
            else:
                failures.add(result)
    requested = set(ids)
    return ResultsAudit(
        requests=len(ids),
        answered=len(requested & answered),
        failed=len((requested & results.keys()) - answered),
        unaccounted=len(requested - results.keys()),
        duplicates=sum(number - 1 for number in results.values()),
        unexpected=len(results.keys() - requested),
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
                # A malformed line still counts as a request or a result.
                value = None
            yield value if isinstance(value, dict) else {}
