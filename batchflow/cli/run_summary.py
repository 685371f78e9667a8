"""What a run ends with, for people and for programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from batchflow.cli import job_views, text
from batchflow.cli.results_audit import ResultsAudit
from batchflow.requests.results import RequestError

#: Kinds of errors in a summary.
_TOP_ERRORS = 5
_ERROR_CHARS = 120


@dataclass(frozen=True)
class Summary:
    """What ``batchflow run`` ends with."""

    account: ResultsAudit
    usage: dict[str, Any]
    model: str | None
    endpoint: str
    job_id: str
    batch_id: str | None
    duration_s: float
    #: Whether the answers are an emulator's.
    emulated: bool
    output_file: Path | None
    error_file: Path | None

    def data(self) -> dict[str, Any]:
        """For programs."""
        account = self.account
        return {
            "requests": account.requests,
            "answered": account.answered,
            "failed": account.failed,
            "unaccounted": account.unaccounted,
            "duplicates": account.duplicates,
            "unexpected": account.unexpected,
            "tokens": {
                name: self.usage.get(f"{name}_tokens") for name in ("input", "output", "total")
            },
            "model": self.model,
            "endpoint": self.endpoint,
            "batch_id": self.batch_id,
            "job_id": self.job_id,
            "duration_s": round(self.duration_s, 1),
            "emulated": self.emulated,
            "errors": [error.data() for error in account.errors],
            "output_file": str(self.output_file) if self.output_file else None,
            "error_file": str(self.error_file) if self.error_file else None,
        }

    def view(self) -> Text:
        """For people."""
        batch = f"{self.batch_id}{' (emulated)' if self.emulated else ''}"
        return job_views.pairs(
            [
                ("requests", _requests(self.account)),
                *(("", _error_line(error)) for error in self.account.errors[:_TOP_ERRORS]),
                ("", _more_errors(self.account.errors[_TOP_ERRORS:])),
                ("tokens", job_views.tokens(self.usage)),
                ("model", self.model),
                ("batch", batch if self.batch_id else None),
                ("duration", text.duration(self.duration_s)),
                ("answers", str(self.output_file) if self.output_file else None),
                ("errors", str(self.error_file) if self.error_file else None),
            ]
        )


def _requests(account: ResultsAudit) -> Text:
    line = Text(f"{account.requests:,}: ")
    line.append(f"{account.answered:,} answered", style="green")
    line.append(", ")
    line.append(f"{account.failed:,} failed", style="red" if account.failed else "")
    line.append(", ")
    style = "bold red" if account.unaccounted else ""
    line.append(f"{account.unaccounted:,} unaccounted for", style=style)
    if account.duplicates:
        line.append(f", {text.count(account.duplicates, 'duplicate')}", style="yellow")
    if account.unexpected:
        line.append(f", {account.unexpected:,} never asked for", style="yellow")
    return line


def _error_line(error: RequestError) -> Text:
    line = Text(f"{error.count:,} x ", style="red")
    line.append(text.one_line(error.text, _ERROR_CHARS), style="default")
    return line


def _more_errors(errors: tuple[RequestError, ...]) -> str | None:
    return f"{sum(error.count for error in errors):,} x other errors" if errors else None
