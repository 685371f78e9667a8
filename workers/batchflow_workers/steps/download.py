"""Download a batch's output and error files to the location that Flyte chose."""

import logging
from typing import IO

import orjson

from batchflow.errors import OpenAIUnavailable
from batchflow.jobs import DownloadSpec, Job
from batchflow.openai_client.client import OpenAIApi
from batchflow.states import JobState
from batchflow_workers.files.storage import target
from batchflow_workers.files.transfer_progress import TransferProgress
from batchflow_workers.files.uri_allowlist import allowed_uris, check_uri
from batchflow_workers.lease import Lease
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

SOURCE = "download"


def download(runtime: Runtime, job: Job, _: Lease) -> None:
    """Download the files that the batch has. Repeating the step replaces them."""
    if not isinstance(job.spec, DownloadSpec):
        return
    check_uri(job.spec.destination, allowed_uris(runtime.settings))
    api = runtime.openai(job.spec.credential)
    progress = TransferProgress(runtime, job, SOURCE)
    progress.write(message="Downloading the batch's files")
    result: dict[str, str | None] = {}
    for name, file_id in (
        ("output_file", job.spec.output_file_id),
        ("error_file", job.spec.error_file_id),
    ):
        uri = f"{job.spec.destination.rstrip('/')}/{name}.jsonl" if file_id else None
        if file_id and uri:
            _download(api, file_id, uri, job.id, progress)
        result[name] = uri
    runtime.end(
        job.id,
        SOURCE,
        JobState.SUCCEEDED,
        "",
        result=orjson.dumps(result).decode(),
        failures=None,
        **progress.fields,
    )


def _download(
    api: OpenAIApi, file_id: str, uri: str, owner: str, progress: TransferProgress
) -> None:
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
            # For example a proxy's own page, with status 200 and a matching length.
            raise OpenAIUnavailable(
                f"OpenAI sent {file_id} without any results in it.", outcome_unknown=False
            )
    logger.info("Downloaded %s, %d bytes", file_id, received)


def _holds_results(file: IO[bytes]) -> bool:
    """Whether a file begins as output and error files do."""
    file.seek(0)
    try:
        first = orjson.loads(file.readline())
    except orjson.JSONDecodeError:
        return False
    return isinstance(first, dict) and "custom_id" in first
