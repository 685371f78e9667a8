"""Bring a batch's output and error files to the place that Flyte gave."""

import logging
from typing import IO

import orjson

from batchflow.errors import OpenAIUnavailable
from batchflow.jobs import DownloadSpec, Job
from batchflow.openai_client.api import OpenAIApi
from batchflow.states import JobState
from batchflow_workers.files.storage import target
from batchflow_workers.files.transfer_progress import Progress
from batchflow_workers.files.uri_allowlist import allowed_uris, check_uri
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps.runner import end

logger = logging.getLogger(__name__)

SOURCE = "download"


def download(runtime: Runtime, job: Job) -> None:
    """Fetch whichever of the two files there are. Repeating it replaces them with the same."""
    if not isinstance(job.spec, DownloadSpec):
        return
    check_uri(job.spec.destination, allowed_uris(runtime.settings))
    api = runtime.openai(job.spec.credential)
    progress = Progress(runtime, job, SOURCE)
    progress.tell(message="Fetching the batch's files")
    result: dict[str, str | None] = {}
    for name, file_id in (
        ("output_file", job.spec.output_file_id),
        ("error_file", job.spec.error_file_id),
    ):
        uri = f"{job.spec.destination.rstrip('/')}/{name}.jsonl" if file_id else None
        if file_id and uri:
            _fetch(api, file_id, uri, job.id, progress)
        result[name] = uri
    end(
        runtime,
        job.id,
        SOURCE,
        JobState.SUCCEEDED,
        "",
        result=orjson.dumps(result).decode(),
        failures=None,
        **progress.fields,
    )


def _fetch(api: OpenAIApi, file_id: str, uri: str, owner: str, progress: Progress) -> None:
    with target(uri, owner) as file:
        received = 0
        with api.file_content(file_id) as (length, chunks):
            if length is not None:
                progress.expect(length)
            for chunk in chunks:
                file.write(chunk)
                received += len(chunk)
                progress.add(len(chunk))
        if length is None:
            length = api.retrieve_file(file_id).bytes
            progress.expect(length)
        if received != length:
            raise OpenAIUnavailable(
                f"OpenAI sent {received} of the {length} bytes of {file_id}.",
                outcome_unknown=False,
            )
        if received and not _holds_results(file):
            # A gateway's own page, with status 200 and a length that fits it.
            raise OpenAIUnavailable(
                f"OpenAI sent something that is no result as {file_id}.", outcome_unknown=False
            )
    logger.info("Fetched %s, %d bytes", file_id, received)


def _holds_results(file: IO[bytes]) -> bool:
    """Whether a file begins as output and error files do."""
    file.seek(0)
    try:
        first = orjson.loads(file.readline())
    except orjson.JSONDecodeError:
        return False
    return isinstance(first, dict) and "custom_id" in first
