"""Find the most frequent error among a batch's failed requests, for someone who views the job."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from batchflow.errors import OpenAIError, OpenAIRefused, StoreUnavailable
from batchflow.openai_client.client import OpenAIApi
from batchflow.requests.results import RequestErrorCounter
from batchflow.store import records
from batchflow_workers.backoff import current_backoff
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

#: How much of an error file is read: some thousand failed requests.
_MAX_BYTES = 1 << 20
_MAX_CHARS = 500


def explain(runtime: Runtime, job_id: str) -> None:
    """Write the job's ``top_error``. If that fails, the next view of the job asks again."""
    try:
        job = runtime.store.run(records.get(job_id))
        if job is None or not job.error_file_id or job.top_error:
            return
        if current_backoff(runtime, job.spec.credential):
            return
        top_error = _top_error(runtime.openai(job.spec.credential), job.error_file_id)
        runtime.store.run(records.annotate(job_id, {"top_error": top_error}))
    except (OpenAIError, StoreUnavailable) as error:
        logger.warning("%s: could not read its error file: %s", job_id, error)


def _top_error(api: OpenAIApi, file_id: str) -> str:
    try:
        with api.file_content(file_id) as (_, chunks):
            content, complete = _beginning(chunks)
    except OpenAIRefused as error:
        return f"OpenAI no longer has the error file {file_id}. {error}"
    errors = RequestErrorCounter()
    for line in _objects(content if complete else content[: content.rfind(b"\n") + 1]):
        errors.add(line)
    found = errors.most_common()
    if not found:
        return f"The error file {file_id} names no error."
    read = "" if complete else f" of the first {sum(error.count for error in found):,}"
    return f"{found[0].count:,}{read} x {found[0].text[:_MAX_CHARS]}"


def _beginning(chunks: Iterable[bytes]) -> tuple[bytes, bool]:
    """The first bytes, and whether they are the whole content."""
    content = b""
    for chunk in chunks:
        content += chunk
        if len(content) > _MAX_BYTES:
            return content[:_MAX_BYTES], False
    return content, True


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict):
            yield found
