"""Batches and their JSON representation."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from batchflow.simulator.api_error import InputModel
from batchflow.simulator.config import Seconds, Share, SimulatorConfig
from batchflow.simulator.engine.inspection import BatchError, Inspection
from batchflow.simulator.engine.responses import usage
from batchflow.simulator.engine.results import ResultFiles
from batchflow.simulator.statuses import KNOWN

_STATUSES_WITH_TIMESTAMP = sorted(KNOWN - {"validating"})
#: The messages of errors that a script can request without a message, by code.
_DEFAULT_MESSAGES = {
    "token_limit_exceeded": (
        "Enqueued token limit reached for {model} in organization {organization}. "
        "Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    ),
}
#: The enqueued token limit in that message if none is configured.
_DEFAULT_TOKEN_LIMIT = 90_000


class ScriptedEnd(InputModel):
    """The end that a test requested for a batch."""

    status: str = Field(min_length=1, max_length=64)
    code: str | None = Field(default=None, min_length=1, max_length=100)
    message: str | None = Field(default=None, max_length=1000)
    #: The share of the requests that run before the end; `None`: as many as time allows.
    done_share: Share | None = None


class NextEnd(ScriptedEnd):
    """The end that a test requested for a batch before its creation."""

    #: How long an undocumented status is shown; then the batch continues.
    shown_s: Seconds | None = None


@dataclass(slots=True)
class Batch:
    """One batch. Its task in `BatchRunner` changes its status."""

    id: str
    organization: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None
    output_expires_after_s: int | None
    created_at: float
    #: The settings when it was created.
    config: SimulatorConfig
    #: The end that was requested before it was created.
    scripted_end: NextEnd | None = None
    status: str = "validating"
    #: When it entered each status, in Unix seconds.
    entered_at: dict[str, float] = field(default_factory=dict)
    errors: tuple[BatchError, ...] = ()
    inspection: Inspection | None = None
    #: How long all its requests take, in seconds.
    run_s: float = 0.0
    #: The number of requests that ran; `None` while they run.
    requests_run: int | None = None
    result_files: ResultFiles | None = None
    #: The tokens that count toward its organization's enqueued token limit.
    enqueued_tokens: int = 0
    #: The end that was requested while it ran; set together with `interrupted`.
    requested_end: ScriptedEnd | None = None
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def expires_at(self) -> float:
        """When it expires if it has not completed, in Unix seconds."""
        return self.created_at + self.config.completion_window_s

    @property
    def total(self) -> int:
        """The number of its requests; 0 before its input file was read."""
        return self.inspection.total if self.inspection else 0

    def enter(self, status: str, now: float) -> None:
        """Change the status."""
        self.status = status
        self.entered_at[status] = now

    def interrupt(self, end: ScriptedEnd) -> None:
        """Make its task apply this end immediately."""
        self.requested_end = end
        self.interrupted.set()

    def done_at(self, now: float) -> int:
        """Return the number of requests that have run."""
        if self.requests_run is not None:
            return self.requests_run
        started = self.entered_at.get("in_progress")
        if self.inspection is None or started is None:
            return 0
        share = 1.0 if self.run_s <= 0 else min(1.0, (now - started) / self.run_s)
        return int(self.total * share)

    def failure(self, code: str, message: str | None = None) -> BatchError:
        """Return the error of a batch that fails for a reason outside its input file."""
        model = self.inspection.model if self.inspection else None
        limit = self.config.enqueued_token_limit
        default = _DEFAULT_MESSAGES.get(code, "The batch failed: {code}.").format(
            model=model or "the model",
            organization=self.organization,
            limit=_DEFAULT_TOKEN_LIMIT if limit is None else limit,
            code=code,
        )
        return BatchError(code, message or default)

    def to_json(self, now: float) -> dict[str, Any]:
        """OpenAI's Batch object at the time `now`."""
        files = self.result_files or ResultFiles()
        files_hidden = now - self.entered_at.get("completed", 0.0) < self.config.output_file_lag_s
        entered_at = {status: int(at) for status, at in self.entered_at.items()}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.inspection.model if self.inspection else None,
            "errors": self._errors(),
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": None if files_hidden else files.output_file_id,
            "error_file_id": None if files_hidden else files.error_file_id,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            **{f"{status}_at": entered_at.get(status) for status in _STATUSES_WITH_TIMESTAMP},
            "request_counts": self._counts(now),
            "usage": usage(files.input_tokens, files.output_tokens),
            "metadata": self.metadata,
        }

    def _errors(self) -> dict[str, Any] | None:
        if not self.errors:
            return None
        return {"object": "list", "data": [error.to_json() for error in self.errors]}

    def _counts(self, now: float) -> dict[str, int]:
        if self.inspection is None or self.status == "failed":
            return {"total": 0, "completed": 0, "failed": 0}
        if self.result_files is not None:
            completed, failed = self.result_files.completed, self.result_files.failed
        else:
            done = self.done_at(now)
            failed = self.inspection.failed_among(done)
            completed = done - failed
        return {"total": self.inspection.total, "completed": completed, "failed": failed}
