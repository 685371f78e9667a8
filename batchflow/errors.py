"""All errors that Batchflow raises, in two levels: whose fault it is, then what happened.

Messages are shown to users as they are: plain sentences that say what went wrong, where, and what
to do, and never a secret.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class BatchflowError(Exception):
    """Base class of all errors raised by Batchflow."""


class InvalidInput(BatchflowError):
    """Raised when a user's input (a file, a config, a literal, an id) is not valid."""


class InvalidSettings(BatchflowError):
    """Raised when a setting of a process is missing or not valid."""


class MissingExtra(BatchflowError):
    """Raised when an optional package that a feature needs is not installed."""


class JobNotFound(BatchflowError):
    """Raised when there is no job with the given id."""


class StoreUnavailable(BatchflowError):
    """Raised when Redis can't be reached or does not answer, which is temporary."""


class LeaseLost(BatchflowError):
    """Raised when a process may no longer hold the lease of what it works on."""


class BlobUnavailable(BatchflowError):
    """Raised when a file can't be read or written for a reason that may be temporary."""


class OpenAIError(BatchflowError):
    """Base class of errors of calls to OpenAI.

    ``outcome_unknown`` says whether the request may have taken effect despite the error.
    """

    outcome_unknown = False


class OpenAIRefused(OpenAIError):
    """Raised when OpenAI refused a request; repeating it would not help.

    ``status_code`` is the HTTP status.
    """

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class OpenAIUnavailable(OpenAIError):
    """Raised when OpenAI gave no usable answer: an outage, a rate limit, a timeout, garbage.

    ``retry_after_s`` is how long OpenAI asked to wait, if it did. ``status_code`` is the HTTP
    status, if there was an answer.
    """

    def __init__(
        self,
        message: str,
        *,
        outcome_unknown: bool,
        retry_after_s: float | None = None,
        status_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.retry_after_s = retry_after_s
        self.status_code = status_code


class CredentialRefused(OpenAIError):
    """Raised when OpenAI answers 401 or 403: the key is wrong, revoked, or lacks a permission."""


class CredentialMissing(OpenAIError):
    """Raised when a worker can't find the secret that a job names."""


class _ValidationError(Protocol):
    """A validation error of pydantic, or of FastAPI, which has the same form."""

    def errors(self) -> Sequence[Any]: ...


def explain_invalid(
    error: _ValidationError, name_of: Callable[[tuple[int | str, ...]], str] | None = None
) -> str:
    """What is wrong with each field, without its value: ``a.b: must be a string; c: ...``.

    ``name_of`` gives the name of a field by its location. At most ten fields are named.
    """
    name_of = name_of or (lambda location: ".".join(map(str, location)))
    return "; ".join(f"{name_of(fault['loc'])}: {fault['msg']}" for fault in error.errors()[:10])


def invalid_fields(error: _ValidationError) -> str:
    """The names of the fields that are not valid: ``a, b``."""
    return ", ".join(sorted({str(fault["loc"][0]) for fault in error.errors()}))
