"""The summary that ``batchflow run`` prints: whether each request has a result, and the cost."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from batchflow.cli.job_views import token_counts
from batchflow.cli.output import pairs
from batchflow.overview.formatting import count, duration
from batchflow.overview.untrusted_text import one_line
from batchflow.requests.results import RequestError, RequestErrorCounter, is_error

_MAX_ERRORS = 5
_ERROR_CHARS = 120


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


@dataclass(frozen=True)
class RunSummary:
    """The outcome of a run."""

    audit: ResultsAudit
    usage: dict[str, Any]
    model: str | None
    endpoint: str
    job_id: str
    batch_id: str | None
    duration_s: float
    #: Whether the emulator answered the requests.
    emulated: bool
    output_file: Path | None
    error_file: Path | None

    def as_data(self) -> dict[str, Any]:
        """The summary for scripts."""
        return {
            **vars(self.audit),
            "tokens": {
                name: self.usage.get(f"{name}_tokens") for name in ("input", "output", "total")
            },
            "model": self.model,
            "endpoint": self.endpoint,
            "batch_id": self.batch_id,
            "job_id": self.job_id,
            "duration_s": round(self.duration_s, 1),
            "emulated": self.emulated,
            "errors": [error.data() for error in self.audit.errors],
            "output_file": str(self.output_file) if self.output_file else None,
            "error_file": str(self.error_file) if self.error_file else None,
        }

    def as_table(self) -> Table:
        """The summary for people."""
        batch = f"{self.batch_id}{' (emulated)' if self.emulated else ''}"
        return pairs(
            [
                ("requests", _request_counts(self.audit)),
                *(("", _error_line(error)) for error in self.audit.errors[:_MAX_ERRORS]),
                ("", _other_errors(self.audit.errors[_MAX_ERRORS:])),
                ("tokens", token_counts(self.usage)),
                ("model", self.model),
                ("batch", batch if self.batch_id else None),
                ("duration", duration(self.duration_s)),
                ("answers", str(self.output_file) if self.output_file else None),
                ("errors", str(self.error_file) if self.error_file else None),
            ]
        )


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


def _request_counts(audit: ResultsAudit) -> Text:
    line = Text(f"{audit.requests:,}: ")
    line.append(f"{audit.answered:,} answered", style="green")
    line.append(", ")
    line.append(f"{audit.failed:,} failed", style="red" if audit.failed else "")
    line.append(", ")
    line.append(
        f"{audit.unaccounted:,} unaccounted for", style="bold red" if audit.unaccounted else ""
    )
    if audit.duplicates:
        line.append(f", {count(audit.duplicates, 'duplicate')}", style="yellow")
    if audit.unexpected:
        line.append(f", {audit.unexpected:,} unexpected", style="yellow")
    return line


def _error_line(error: RequestError) -> Text:
    line = Text(f"{error.count:,} x ", style="red")
    line.append(one_line(error.text, _ERROR_CHARS), style="default")
    return line


def _other_errors(errors: tuple[RequestError, ...]) -> str | None:
    return f"{sum(error.count for error in errors):,} x other errors" if errors else None


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
