"""OpenAI's Files and Batch API as the steps need it: one client per credential, our own errors.

Retries of the SDK are off: it repeats POSTs whose reply was lost, and so makes a second paid
batch. Whoever calls decides what may be repeated.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from io import IOBase
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import httpx2
import openai
from flytekit import current_context
from openai.types import Batch, FileObject

from batchflow.errors import (
    BatchflowError,
    CredentialMissing,
    CredentialRefused,
    OpenAIError,
    OpenAIRefused,
    OpenAIUnavailable,
)
from batchflow.jobs import Credential
from batchflow.openai_client.calls import CallOutcome, Operation, outcome_of
from batchflow.openai_client.metadata import JOB_KEY

logger = logging.getLogger(__name__)

T = TypeVar("T")
L = TypeVar("L", Batch, FileObject)

#: Is told of each call: what was asked, how it ended, how many seconds it took.
Observer = Callable[[Operation, CallOutcome, float], None]

#: The largest page that OpenAI's list of batches has; servers like it have no larger ones of files.
PAGE = 100
#: OpenAI's clock and ours may differ by less than this, in seconds.
_CLOCK_SKEW_S = 3_600

#: OpenAI is not believed that it wants to be left alone for longer than this, in seconds.
_LONGEST_RETRY_AFTER_S = 3_600.0

#: How a server answers that speaks the API but for its lists.
_NO_LIST = frozenset({404, 405, 501})

_PASSING_STATUS = frozenset({408, 409, 425, 429})


def api_key(credential: Credential) -> str:
    """The API key, found by Flyte's convention; raises CredentialMissing."""
    secrets = current_context().secrets
    try:
        key = str(
            secrets.get(
                group=credential.group,
                key=credential.key,
                group_version=credential.group_version,
            )
        )
    except ValueError:
        key = ""
    path = Path(
        secrets.get_secrets_file(credential.group, credential.key, credential.group_version)
    )
    if not key and path.is_file():
        # An empty variable, as Compose sets for one that is missing, hides the file.
        key = path.read_text("utf-8").strip()
    if key.isascii() and key.isprintable() and key:
        return key
    variable = secrets.get_secrets_env_var(
        credential.group, credential.key, credential.group_version
    )
    if key:
        # The HTTP library's own error would show it.
        raise CredentialMissing(
            f"The OpenAI API key '{credential.secret}' holds characters that no key has."
        )
    raise CredentialMissing(
        f"The workers have no OpenAI API key '{credential.secret}'. Give them the environment "
        f"variable {variable} or the file {path}."
    )


def job_of(batch: Batch) -> str | None:
    """The id of the job that made a batch, which the batch itself carries."""
    return (batch.metadata or {}).get(JOB_KEY)


class OpenAIApi:
    """The calls that steps make, for one credential."""

    def __init__(self, client: openai.OpenAI, observer: Observer | None = None) -> None:
        self._client = client
        self._observer = observer

    def create_batch(self, *, input_file_id: str, config: Mapping[str, Any]) -> Batch:
        """POST /v1/batches, once."""
        with self._call(Operation.BATCHES_CREATE):
            return _checked(
                Batch, self._client.batches.create(input_file_id=input_file_id, **config)
            )

    def retrieve_batch(self, batch_id: str) -> Batch:
        """GET /v1/batches/{id}."""
        with self._call(Operation.BATCHES_RETRIEVE):
            return _checked(Batch, self._client.batches.retrieve(batch_id))

    def cancel_batch(self, batch_id: str) -> Batch:
        """POST /v1/batches/{id}/cancel; a batch that ended is answered as it is."""
        try:
            with self._call(Operation.BATCHES_CANCEL):
                return _checked(Batch, self._client.batches.cancel(batch_id))
        except (OpenAIRefused, OpenAIUnavailable):
            batch = self.retrieve_batch(batch_id)
            if batch.status in ("cancelling", "cancelled", "completed", "failed", "expired"):
                return batch
            raise

    def batch_pages(
        self, *, not_before: datetime | None = None, after: str | None = None
    ) -> Iterator[list[Batch]]:
        """GET /v1/batches, newest first, a page at a time; none if the server has no lists.

        The first page begins with the newest batch, or behind the one with the id ``after``.
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
        """POST /v1/files, once, streamed from a file. What Batchflow raises while the file is read
        breaks the request off, and comes out as it is."""
        content = cast(BinaryIO, file)  # which it is, though the types of `io` don't say so
        with self._call(Operation.FILES_CREATE):
            return _checked(
                FileObject,
                self._client.files.create(
                    file=(name, content, "application/jsonl"), purpose="batch"
                ),
            )

    def find_file(self, name: str, *, not_before: datetime) -> FileObject | None:
        """The batch file with this name that was uploaded since then, if OpenAI lists one."""
        files = self._client.files
        pages = self._pages(
            Operation.FILES_LIST,
            FileObject,
            lambda after: files.list(purpose="batch", order="desc", limit=PAGE, after=after),
            not_before,
        )
        return next((file for page in pages for file in page if file.filename == name), None)

    def delete_file(self, file_id: str) -> None:
        """DELETE /v1/files/{id}."""
        with self._call(Operation.FILES_DELETE):
            self._client.files.delete(file_id)

    def retrieve_file(self, file_id: str) -> FileObject:
        """GET /v1/files/{id}."""
        with self._call(Operation.FILES_RETRIEVE):
            return _checked(FileObject, self._client.files.retrieve(file_id))

    def _pages(
        self,
        operation: Operation,
        expected: type[L],
        ask: Callable[[str | openai.Omit], Any],
        not_before: datetime | None,
        after: str | openai.Omit = openai.omit,
    ) -> Iterator[list[L]]:
        """Pages of a list, newest first, back to ``not_before``."""
        while True:
            try:
                with self._call(operation), _page_or_garbage():
                    page = ask(after)
                    items = _listed(expected, page)
                    more = page.has_next_page()
            except (OpenAIRefused, OpenAIUnavailable) as error:
                if error.status_code in _NO_LIST:
                    logger.warning("%s has no lists: %s", self._client.base_url, error)
                    return
                raise
            yield items
            if not more or not items or items[-1].id == after or _is_before(items[-1], not_before):
                return
            after = items[-1].id

    @contextmanager
    def file_content(self, file_id: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """GET /v1/files/{id}/content: its length if the server says so, and its chunks."""
        with (
            self._call(Operation.FILES_CONTENT),
            self._client.files.with_streaming_response.content(
                file_id, extra_headers={"Accept-Encoding": "identity"}
            ) as response,
        ):
            encoded = response.headers.get("content-encoding", "identity") != "identity"
            length = None if encoded else response.headers.get("content-length")
            yield (int(length) if length else None), response.iter_bytes()

    @contextmanager
    def _call(self, operation: Operation) -> Iterator[None]:
        """One request: its errors become ours, and who observes is told."""
        began = time.monotonic()
        outcome = CallOutcome.ABANDONED
        try:
            with translated():
                yield
            outcome = CallOutcome.OK
        except OpenAIError as error:
            outcome = outcome_of(error)
            raise
        finally:
            if self._observer:
                self._observer(operation, outcome, time.monotonic() - began)


@lru_cache(maxsize=256)
def _client(key: str, organization: str | None, timeout_s: float) -> openai.OpenAI:
    # A client costs some 25 ms of CPU for its TLS context, and keeps its connections.
    return openai.OpenAI(
        api_key=key,
        organization=organization,
        max_retries=0,
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
    )


def base_url() -> str:
    """Where OpenAI's API is for every client here."""
    return str(openai.OpenAI(api_key="none").base_url)


def client_of(credential: Credential, timeout_s: float) -> openai.OpenAI:
    """The SDK's client for a credential, which is kept. The key is looked up each time, so that a
    rotated one is used at once; raises CredentialMissing."""
    return _client(api_key(credential), credential.organization, timeout_s)


def connect_openai(
    credential: Credential, timeout_s: float, observer: Observer | None = None
) -> OpenAIApi:
    """The API for a credential; raises CredentialMissing."""
    return OpenAIApi(client_of(credential, timeout_s), observer)


#: What an answer must have to be of any use. Not more: other servers leave much out.
_NEEDED: dict[type, dict[str, type]] = {
    Batch: {"id": str, "status": str, "created_at": int},
    FileObject: {"id": str, "filename": str, "created_at": int},
}


def _checked(expected: type[T], answer: object) -> T:
    """An answer that is what it should be; the SDK hands garbage through as it came."""
    needed = _NEEDED[expected].items()
    if isinstance(answer, expected) and all(
        isinstance(getattr(answer, name, None), kind) for name, kind in needed
    ):
        return answer
    raise OpenAIUnavailable(
        f"OpenAI answered something that is no {expected.__name__}.", outcome_unknown=True
    )


def _is_before(item: Batch | FileObject, moment: datetime | None) -> bool:
    return moment is not None and item.created_at < moment.timestamp() - _CLOCK_SKEW_S


@contextmanager
def _page_or_garbage() -> Iterator[None]:
    """The SDK's paginator breaks on an answer that is no object."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise OpenAIUnavailable(
            "OpenAI answered something that is no list.", outcome_unknown=True
        ) from error


def _listed(expected: type[T], page: object) -> list[T]:
    """What is on a page of a list. One without its list does not say that there is nothing."""
    found = getattr(page, "data", None)
    if not isinstance(found, list) or "data" not in getattr(page, "model_fields_set", ()):
        raise OpenAIUnavailable(
            f"OpenAI answered something that is no list of {expected.__name__}.",
            outcome_unknown=True,
        )
    return [_checked(expected, item) for item in found]


@contextmanager
def translated() -> Iterator[None]:
    """The SDK's errors become ours where they enter."""
    try:
        yield
    except openai.APITimeoutError as error:
        raise OpenAIUnavailable("OpenAI did not answer in time.", outcome_unknown=True) from error
    except openai.APIConnectionError as error:
        if isinstance(error.__cause__, BatchflowError):
            raise error.__cause__ from None
        never_sent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
        raise OpenAIUnavailable(
            "OpenAI can't be reached.", outcome_unknown=not never_sent
        ) from error
    except openai.APIStatusError as error:
        raise _from_status(error) from error
    except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
        raise OpenAIUnavailable(
            f"OpenAI's answer can't be read ({type(error).__name__}).", outcome_unknown=True
        ) from error


def _from_status(
    error: openai.APIStatusError,
) -> OpenAIRefused | OpenAIUnavailable | CredentialRefused:
    status = error.status_code
    if status in (401, 403):
        # OpenAI's text repeats part of the key.
        return CredentialRefused(
            f"OpenAI refuses the API key (HTTP {status}); it is wrong, revoked, or lacks the right."
        )
    if status in _PASSING_STATUS or status >= 500 or status < 400:
        return OpenAIUnavailable(
            f"OpenAI answered HTTP {status}: {_message(error)}",
            outcome_unknown=status != 429,
            retry_after_s=_retry_after_s(error.response.headers),
            status_code=status,
        )
    return OpenAIRefused(_message(error), status)


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    text = body.get("message") if isinstance(body, Mapping) else None
    return str(text or error.message)[:2_000]


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            asked_s = float(headers[name]) * unit_s
            if math.isfinite(asked_s):
                return min(max(0.0, asked_s), _LONGEST_RETRY_AFTER_S)
    return None
