"""Which of Batchflow's errors an exception of OpenAI's SDK becomes."""

import contextlib
import json
import math
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

import httpx2
import openai

from batchflow.errors import (
    BatchflowError,
    CredentialRefused,
    OpenAIError,
    OpenAIRefused,
    OpenAIUnavailable,
)

#: HTTP status -> error; the first row that contains the status applies.
_ERROR_OF_STATUS: tuple[tuple[Container[int], type[OpenAIError]], ...] = (
    ({401, 403}, CredentialRefused),
    ({408, 409, 425, 429}, OpenAIUnavailable),  # temporary, though they are client errors
    (range(400, 500), OpenAIRefused),
    (range(1_000), OpenAIUnavailable),
)
#: A request that is rate limited has not been carried out.
_RATE_LIMITED = 429

#: The longest pause that a ``Retry-After`` header can cause, in seconds.
_MAX_RETRY_AFTER_S = 3_600.0
_MAX_MESSAGE_CHARS = 2_000


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the SDK's exceptions as Batchflow's errors."""
    try:
        yield
    except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
        if isinstance(error.__cause__, BatchflowError):
            # Raised by the file that was being uploaded.
            raise error.__cause__ from None
        raise _classified(error) from error


def _classified(error: Exception) -> OpenAIError:
    match error:
        case openai.APITimeoutError():
            return OpenAIUnavailable("OpenAI did not answer in time.", outcome_unknown=True)
        case openai.APIConnectionError(__cause__=cause):
            never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
            return OpenAIUnavailable("OpenAI can't be reached.", outcome_unknown=not never_sent)
        case openai.APIStatusError():
            return _from_status(error)
        case _:
            return OpenAIUnavailable(
                f"OpenAI's response can't be read ({type(error).__name__}).", outcome_unknown=True
            )


def _from_status(error: openai.APIStatusError) -> OpenAIError:
    status = error.status_code
    kind = next(kind for statuses, kind in _ERROR_OF_STATUS if status in statuses)
    if kind is CredentialRefused:
        # OpenAI's own message repeats part of the key.
        return CredentialRefused(
            f"OpenAI rejected the API key (HTTP {status}). "
            "It is wrong, was revoked, or lacks permission."
        )
    if kind is OpenAIRefused:
        return OpenAIRefused(_message(error), status)
    return OpenAIUnavailable(
        f"OpenAI returned HTTP {status}: {_message(error)}",
        outcome_unknown=status != _RATE_LIMITED,
        retry_after_s=_retry_after_s(error.response.headers),
        status_code=status,
    )


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    text = body.get("message") if isinstance(body, Mapping) else None
    return str(text or error.message)[:_MAX_MESSAGE_CHARS]


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            delay_s = float(headers[name]) * unit_s
            if math.isfinite(delay_s):
                return min(max(0.0, delay_s), _MAX_RETRY_AFTER_S)
    return None
