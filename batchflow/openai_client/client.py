"""OpenAI's Files and Batch API as the steps use it: one client per credential.

The SDK's retries are off: it repeats a POST whose response was lost, which would create a second
paid batch. The caller decides what may be repeated.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from io import IOBase
from typing import Any, BinaryIO, TypeVar, cast

import httpx2
import openai
from openai.types import Batch, FileObject

from batchflow.errors import OpenAIError, OpenAIRefused, OpenAIUnavailable
from batchflow.jobs import Credential
from batchflow.openai_client.api_key import api_key
from batchflow.openai_client.calls import CallOutcome, Operation, outcome_of
from batchflow.openai_client.error_classification import translated_errors
from batchflow.openai_client.parsing import malformed_pages, parsed, parsed_page

logger = logging.getLogger(__name__)

T = TypeVar("T", Batch, FileObject)

#: Called after each call with the operation, its outcome and its duration in seconds.
CallObserver = Callable[[Operation, CallOutcome, float], None]

#: The largest page of OpenAI's list of batches; compatible servers limit lists of files to it, too.
PAGE = 100
#: The largest difference between OpenAI's clock and ours that a search allows for, in seconds.
_CLOCK_SKEW_S = 3_600

#: The status codes of a server that has no lists.
_NO_LIST = frozenset({404, 405, 501})

_ENDED_OR_CANCELLING = frozenset({"cancelling", "cancelled", "completed", "failed", "expired"})


class OpenAIApi:
    """The calls that steps make with one credential.

    They raise OpenAIError: OpenAIRefused, OpenAIUnavailable or CredentialRefused.
    """

    def __init__(self, client: openai.OpenAI, observer: CallObserver | None = None) -> None:
        self._client = client
        self._observer = observer

    def create_batch(self, *, input_file_id: str, config: Mapping[str, Any]) -> Batch:
        """POST /v1/batches, once."""
        with self._call(Operation.BATCHES_CREATE):
            return parsed(Batch, self._client.batches.create(input_file_id=input_file_id, **config))

    def retrieve_batch(self, batch_id: str) -> Batch:
        """GET /v1/batches/{id}."""
        with self._call(Operation.BATCHES_RETRIEVE):
            return parsed(Batch, self._client.batches.retrieve(batch_id))

    def cancel_batch(self, batch_id: str) -> Batch:
        """POST /v1/batches/{id}/cancel; returns a batch that has ended as it is."""
        try:
            with self._call(Operation.BATCHES_CANCEL):
                return parsed(Batch, self._client.batches.cancel(batch_id))
        except (OpenAIRefused, OpenAIUnavailable):
            batch = self.retrieve_batch(batch_id)
            if batch.status in _ENDED_OR_CANCELLING:
                return batch
            raise

    def batch_pages(
        self, *, not_before: datetime | None = None, after: str | None = None
    ) -> Iterator[list[Batch]]:
        """GET /v1/batches, newest first, one page at a time; no pages if the server has no lists.

        The first page starts with the newest batch, or after the batch with the id ``after``.
        """
        batches = self._client.batches
        return self._pages(
            Operation.BATCHES_LIST,
            Batch,
            lambda last: batches.list(limit=PAGE, after=last),
            not_before,
            after or openai.omit,
        )

    def upload_file(self, file: IOBase, name: str) -> FileObject:
        """POST /v1/files, once, streamed from a file.

        A BatchflowError raised by the file's ``read`` aborts the request and is raised unchanged.
        """
        content = cast(BinaryIO, file)  # true, although the types of `io` do not say so
        with self._call(Operation.FILES_CREATE):
            return parsed(
                FileObject,
                self._client.files.create(
                    file=(name, content, "application/jsonl"), purpose="batch"
                ),
            )

    def file_pages(self, *, not_before: datetime, after: str | None) -> Iterator[list[FileObject]]:
        """GET /v1/files, the input files of batches, in the same way."""
        files = self._client.files
        return self._pages(
            Operation.FILES_LIST,
            FileObject,
            lambda last: files.list(purpose="batch", order="desc", limit=PAGE, after=last),
            not_before,
            after or openai.omit,
        )

    def retrieve_file(self, file_id: str) -> FileObject:
        """GET /v1/files/{id}."""
        with self._call(Operation.FILES_RETRIEVE):
            return parsed(FileObject, self._client.files.retrieve(file_id))

    def delete_file(self, file_id: str) -> None:
        """DELETE /v1/files/{id}."""
        with self._call(Operation.FILES_DELETE):
            self._client.files.delete(file_id)

    @contextmanager
    def file_content(self, file_id: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """GET /v1/files/{id}/content: its length in bytes, if known, and its chunks."""
        with (
            self._call(Operation.FILES_CONTENT),
            self._client.files.with_streaming_response.content(
                file_id, extra_headers={"Accept-Encoding": "identity"}
            ) as response,
        ):
            encoded = response.headers.get("content-encoding", "identity") != "identity"
            length = None if encoded else response.headers.get("content-length")
            yield (int(length) if length else None), response.iter_bytes()

    def _pages(
        self,
        operation: Operation,
        expected: type[T],
        fetch: Callable[[str | openai.Omit], Any],
        not_before: datetime | None,
        after: str | openai.Omit = openai.omit,
    ) -> Iterator[list[T]]:
        """Pages of a list, newest first, back to ``not_before``."""
        while True:
            try:
                with self._call(operation), malformed_pages(expected.__name__):
                    page = fetch(after)
                    items = parsed_page(expected, page)
                    more = page.has_next_page()
            except (OpenAIRefused, OpenAIUnavailable) as error:
                # An id that the server does not know, in `after`, has status 404, too.
                if error.status_code in _NO_LIST and isinstance(after, openai.Omit):
                    logger.warning("%s has no lists: %s", self._client.base_url, error)
                    return
                raise
            yield items
            if not more or not items or items[-1].id == after or _is_before(items[-1], not_before):
                return
            after = items[-1].id

    @contextmanager
    def _call(self, operation: Operation) -> Iterator[None]:
        """Translate the errors of one request, and report it to the observer."""
        began = time.monotonic()
        outcome = CallOutcome.ABANDONED
        try:
            with translated_errors():
                yield
            outcome = CallOutcome.OK
        except OpenAIError as error:
            outcome = outcome_of(error)
            raise
        finally:
            if self._observer:
                self._observer(operation, outcome, time.monotonic() - began)


def connect_openai(
    credential: Credential, timeout_s: float, observer: CallObserver | None = None
) -> OpenAIApi:
    """The API for a credential; raises CredentialMissing."""
    return OpenAIApi(sdk_client(credential, timeout_s), observer)


def sdk_client(credential: Credential, timeout_s: float) -> openai.OpenAI:
    """The SDK's client for a credential, cached by key; raises CredentialMissing.

    The key is read each time, so that a rotated one takes effect at once.
    """
    return cached_sdk_client(api_key(credential), credential.organization, timeout_s)


@lru_cache(maxsize=256)
def cached_sdk_client(key: str, organization: str | None, timeout_s: float) -> openai.OpenAI:
    """The SDK's client for a key. Making one takes 25 ms of CPU, for its TLS context."""
    return openai.OpenAI(
        api_key=key,
        organization=organization,
        max_retries=0,
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
    )


def base_url() -> str:
    """The base URL of OpenAI's API, from the environment or the SDK's default."""
    return str(openai.OpenAI(api_key="none").base_url)


def _is_before(item: Batch | FileObject, moment: datetime | None) -> bool:
    return moment is not None and item.created_at < moment.timestamp() - _CLOCK_SKEW_S
