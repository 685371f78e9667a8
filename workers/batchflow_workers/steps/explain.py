"""Find the most frequent error among a batch's failed requests: somebody looks at the job."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from batchflow.errors import OpenAIError, OpenAIRefused, StoreUnavailable
from batchflow.openai_client.api import OpenAIApi
from batchflow.requests.results import Errors
from batchflow.store import records
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps.runner import backed_off

logger = logging.getLogger(__name__)

#: How much of an error file is read: some thousand failed requests.
_MOST_BYTES = 1 << 20
_MOST_CHARS = 500


def explain(runtime: Runtime, job_id: str) -> None:
    """Write the job's ``top_error``. What can't be read now is asked for again by who looks."""
    try:
        job = runtime.store.run(records.get(job_id))
        if job is None or not job.error_file_id or job.top_error:
            return
        if backed_off(runtime, job.spec.credential):
            return
        top_error = _top_error(runtime.openai(job.spec.credential), job.error_file_id)
        runtime.store.run(records.annotate(job_id, {"top_error": top_error}))
    except (OpenAIError, StoreUnavailable) as error:
        logger.warning("%s: no look at its errors: %s", job_id, error)


def _top_error(api: OpenAIApi, file_id: str) -> str:
    try:
        with api.file_content(file_id) as (_, chunks):
            text, whole = _beginning(chunks)
    except OpenAIRefused as error:
        return f"OpenAI no longer shows the error file {file_id}. {error}"
    errors = Errors()
    for line in _objects(text if whole else text[: text.rfind(b"\n") + 1]):
        errors.add(line)
    found = errors.by_frequency()
    if not found:
        return f"The error file {file_id} names no error."
    of = "" if whole else f" of the first {sum(error.count for error in found):,}"
    return f"{found[0].count:,}{of} x {found[0].words[:_MOST_CHARS]}"


def _beginning(chunks: Iterable[bytes]) -> tuple[bytes, bool]:
    """The first bytes, and whether that is all."""
    text = b""
    for chunk in chunks:
        text += chunk
        if len(text) > _MOST_BYTES:
            return text[:_MOST_BYTES], False
    return text, True


def _objects(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict):
            yield found
