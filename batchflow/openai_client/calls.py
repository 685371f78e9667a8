"""The calls to OpenAI as they are counted: what is asked, and how it ends."""

from enum import StrEnum

from batchflow.errors import CredentialRefused, OpenAIError, OpenAIRefused, OpenAIUnavailable

_TOO_MANY_REQUESTS = 429

#: Why OpenAI is left alone for a while, when it is not how a call ended: there is no key to ask it
#: with.
NO_KEY = "no_key"


class Operation(StrEnum):
    """What is asked, by the SDK's names."""

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
    """How a call ends."""

    OK = "ok"
    #: OpenAI answered 429.
    RATE_LIMITED = "rate_limited"
    #: It answered 401 or 403.
    UNAUTHORIZED = "unauthorized"
    #: It understood and said no.
    REFUSED = "refused"
    #: It gave no usable answer: 5xx, a timeout, a broken connection, garbage.
    UNAVAILABLE = "unavailable"
    #: We broke it off, for a reason of our own.
    ABANDONED = "abandoned"


def outcome_of(error: OpenAIError) -> CallOutcome:
    """How the call ended that raised this."""
    match error:
        case OpenAIUnavailable(status_code=status) if status == _TOO_MANY_REQUESTS:
            return CallOutcome.RATE_LIMITED
        case OpenAIRefused():
            return CallOutcome.REFUSED
        case CredentialRefused():
            return CallOutcome.UNAUTHORIZED
    return CallOutcome.UNAVAILABLE
