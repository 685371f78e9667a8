"""Names for the calls to OpenAI, as metrics count them: the operation and its outcome."""

from enum import StrEnum

from batchflow.errors import CredentialRefused, OpenAIError, OpenAIRefused, OpenAIUnavailable

_TOO_MANY_REQUESTS = 429

#: The reason for a backoff that no call caused: the API key is missing.
NO_KEY = "no_key"


class Operation(StrEnum):
    """An operation of OpenAI's API, by the SDK's names."""

    BATCHES_CREATE = "batches.create"
    BATCHES_RETRIEVE = "batches.retrieve"
    BATCHES_LIST = "batches.list"
    BATCHES_CANCEL = "batches.cancel"
    FILES_CREATE = "files.create"
    FILES_RETRIEVE = "files.retrieve"
    FILES_LIST = "files.list"
    FILES_DELETE = "files.delete"
    FILES_CONTENT = "files.content"


class CallOutcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    #: HTTP 429.
    RATE_LIMITED = "rate_limited"
    #: HTTP 401 or 403.
    UNAUTHORIZED = "unauthorized"
    #: Another client error.
    REFUSED = "refused"
    #: No usable response: 5xx, a timeout, a broken connection, malformed content.
    UNAVAILABLE = "unavailable"
    #: Batchflow aborted it.
    ABANDONED = "abandoned"


def outcome_of(error: OpenAIError) -> CallOutcome:
    """The outcome of the call that raised this error."""
    match error:
        case OpenAIUnavailable(status_code=status) if status == _TOO_MANY_REQUESTS:
            return CallOutcome.RATE_LIMITED
        case OpenAIRefused():
            return CallOutcome.REFUSED
        case CredentialRefused():
            return CallOutcome.UNAUTHORIZED
    return CallOutcome.UNAVAILABLE
