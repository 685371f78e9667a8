"""Everything that Batchflow raises, in two levels: whose matter it is, then what happened.

Messages are shown to users as they are: plain sentences that say what, where and how to mend it,
and never a secret.
"""


class BatchflowError(Exception):
    """Base of all errors raised by Batchflow."""


class InvalidInput(BatchflowError):
    """Raised when what a user gave (a file, a config, a literal, an id) can't work."""


class InvalidSettings(BatchflowError):
    """Raised when the environment of a process is missing a setting or has a wrong one."""


class MissingExtra(BatchflowError):
    """Raised when a part is used whose optional dependencies are not installed."""


class JobNotFound(BatchflowError):
    """Raised when no job has the id that was asked for."""


class StoreUnavailable(BatchflowError):
    """Raised when Redis can't be reached or doesn't answer; it passes by itself."""


class BlobUnavailable(BatchflowError):
    """Raised when blob storage can't be read or written for a reason that may pass."""


class OpenAIError(BatchflowError):
    """Base of what goes wrong between a worker and OpenAI.

    ``outcome_unknown`` tells whether the request may have been carried out all the same.
    """

    outcome_unknown = False


class OpenAIRefused(OpenAIError):
    """Raised when OpenAI understood a request and said no; asking again would not help.

    ``status_code`` is the HTTP status.
    """

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class OpenAIUnavailable(OpenAIError):
    """Raised when OpenAI gave no usable answer: outage, rate limit, timeout, garbage.

    ``retry_after_s`` is what OpenAI asked us to wait, if it did; ``status_code`` is the HTTP
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
    """Raised when OpenAI answers 401 or 403: the key is wrong, revoked or lacks the right."""


class CredentialMissing(OpenAIError):
    """Raised when a worker can't find the secret that a job names."""
