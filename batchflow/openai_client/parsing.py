"""Tolerant parsing of OpenAI's responses.

The SDK validates nothing and passes on whatever the server sent. Compatible servers leave out much
of what OpenAI sends, so only the fields that Batchflow cannot work without are required.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from openai.types import Batch, FileObject

from batchflow.errors import OpenAIUnavailable
from batchflow.openai_client.batch_metadata import JOB_KEY

T = TypeVar("T", Batch, FileObject)

_REQUIRED: dict[type, dict[str, type]] = {
    Batch: {"id": str, "status": str, "created_at": int},
    FileObject: {"id": str, "filename": str, "created_at": int},
}


def parsed(expected: type[T], response: object) -> T:
    """A single object; raises OpenAIUnavailable unless it has the required fields."""
    required = _REQUIRED[expected].items()
    if isinstance(response, expected) and all(
        isinstance(getattr(response, name, None), kind) for name, kind in required
    ):
        return response
    raise malformed(expected.__name__)


def parsed_page(expected: type[T], page: object) -> list[T]:
    """The objects on a page; a page without ``data`` is malformed, not empty."""
    items = getattr(page, "data", None)
    if not isinstance(items, list) or "data" not in getattr(page, "model_fields_set", ()):
        raise malformed(f"list of {expected.__name__}")
    return [parsed(expected, item) for item in items]


@contextmanager
def malformed_pages(expected: str) -> Iterator[None]:
    """Translate what the SDK's paginator raises for a response that is not an object."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise malformed(f"list of {expected}") from error


def malformed(expected: str) -> OpenAIUnavailable:
    """The error for a response that is not what was expected."""
    return OpenAIUnavailable(f"OpenAI's response is not a valid {expected}.", outcome_unknown=True)


def job_of(batch: Batch) -> str | None:
    """The id of the job that created a batch, from the batch's metadata."""
    return (batch.metadata or {}).get(JOB_KEY)
