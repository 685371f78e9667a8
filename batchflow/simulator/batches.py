"""The record of a batch, and how it looks to a client at a moment."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.inspection import BatchError, Inspection

#: What a batch that is told to fail gives as the reason, for the codes that have a usual one.
_FAILURES = {
    "token_limit_exceeded": (
        "Enqueued token limit reached for {model} in organization {organization}. "
        "Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    ),
}
#: The enqueued token limit in that message when none is set.
_USUAL_TOKEN_LIMIT = 90_000


@dataclass(frozen=True, slots=True)
class Fate:
    """An end that was ordered for a batch, instead of the one it would come to."""

    status: str
    code: str | None = None
    message: str | None = None
    #: The share of the requests that run before it; `None`: those that have run by then.
    done_share: float | None = None
    #: How long a status that OpenAI doesn't list is shown; the batch then goes on.
    shown_s: float | None = None


@dataclass(slots=True)
class Outcome:
    """What an ended batch leaves."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None


@dataclass(slots=True)
class Batch:
    """One batch. Its own task (`lifecycle.Lives`) moves it on; nothing else changes it."""

    id: str
    organization: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None
    output_expires_after_s: int | None
    created_at: float
    #: The settings of the moment it was created in.
    config: SimulatorConfig
    #: What was ordered for it before it was created.
    fate: Fate | None = None
    status: str = "validating"
    #: When it took each status.
    entered_at: dict[str, float] = field(default_factory=dict)
    errors: tuple[BatchError, ...] = ()
    inspection: Inspection | None = None
    #: How long all its requests take.
    work_s: float = 0.0
    #: How many requests ran, once no more do.
    stopped_at: int | None = None
    outcome: Outcome | None = None
    #: What it takes of its organization's enqueued tokens.
    enqueued_tokens: int = 0
    #: What was ordered while it lives; `interrupted` is set with it.
    order: Fate | None = None
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def expires_at(self) -> float:
        """When it expires unless it is done."""
        return self.created_at + self.config.completion_window_s

    def enter(self, status: str, now: float) -> None:
        """Take a status."""
        self.status = status
        self.entered_at[status] = now

    def interrupt(self, order: Fate) -> None:
        """Have its task carry out an order at once."""
        self.order = order
        self.interrupted.set()

    def done_at(self, now: float) -> int:
        """How many of its requests have run."""
        if self.stopped_at is not None:
            return self.stopped_at
        started = self.entered_at.get("in_progress")
        if self.inspection is None or started is None:
            return 0
        share = 1.0 if self.work_s <= 0 else min(1.0, (now - started) / self.work_s)
        return int(self.inspection.total * share)

    def failure(self, code: str, message: str | None = None) -> BatchError:
        """The error of a batch that fails for a reason outside its input file."""
        model = self.inspection.model if self.inspection else None
        limit = self.config.enqueued_token_limit
        usual = _FAILURES.get(code, "The batch failed: {code}.").format(
            model=model or "the model",
            organization=self.organization,
            limit=_USUAL_TOKEN_LIMIT if limit is None else limit,
            code=code,
        )
        return BatchError(code, message or usual)

    def to_json(self, now: float) -> dict[str, Any]:
        """OpenAI's Batch object at this moment; its cost doesn't depend on the batch's size."""
        outcome = self.outcome or Outcome()
        late = now - self.entered_at.get("completed", 0.0) < self.config.output_file_lag_s
        stamps = {f"{status}_at": self._stamp(status) for status in _STAMPED}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.inspection.model if self.inspection else None,
            "errors": self._errors(),
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": None if late else outcome.output_file_id,
            "error_file_id": None if late else outcome.error_file_id,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            **stamps,
            "request_counts": self._counts(now),
            "usage": _usage(outcome),
            "metadata": self.metadata,
        }

    def _stamp(self, status: str) -> int | None:
        at = self.entered_at.get(status)
        return None if at is None else int(at)

    def _errors(self) -> dict[str, Any] | None:
        if not self.errors:
            return None
        return {"object": "list", "data": [error.to_json() for error in self.errors]}

    def _counts(self, now: float) -> dict[str, int]:
        if self.inspection is None or self.status == "failed":
            return {"total": 0, "completed": 0, "failed": 0}
        if self.outcome is not None:
            completed, failed = self.outcome.completed, self.outcome.failed
        else:
            done = self.done_at(now)
            failed = self.inspection.failed_among(done)
            completed = done - failed
        return {"total": self.inspection.total, "completed": completed, "failed": failed}


_STAMPED = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)


def _usage(outcome: Outcome) -> dict[str, Any]:
    return {
        "input_tokens": outcome.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": outcome.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": outcome.input_tokens + outcome.output_tokens,
    }
