"""Upload a JSONL file to OpenAI, at most once, and validate each line of it."""

import logging

import orjson
from openai.types import FileObject

from batchflow.errors import OpenAIError
from batchflow.jobs import Job, UploadSpec
from batchflow.states import JobState
from batchflow.store import records
from batchflow_workers.at_most_once import counted_try, search_not_before, until_searchable_s
from batchflow_workers.files.storage import source
from batchflow_workers.files.transfer_progress import TransferProgress
from batchflow_workers.files.uri_allowlist import allowed_uris, check_uri
from batchflow_workers.files.validating_reader import ValidatingReader
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

SOURCE = "upload"


def upload(runtime: Runtime, job: Job) -> None:
    """Upload the file as ``<job id>.jsonl``, or find the one that an earlier try uploaded."""
    if not isinstance(job.spec, UploadSpec):
        return
    check_uri(job.spec.uri, allowed_uris(runtime.settings))
    api = runtime.openai(job.spec.credential)
    name = f"{job.id}.jsonl"
    if job.tries:
        if wait_s := until_searchable_s(runtime, job):
            runtime.postpone(
                job.id, SOURCE, wait_s, "Checking whether OpenAI already has this file"
            )
            return
        if found := api.find_file(name, not_before=search_not_before(job)):
            logger.info("%s: found %s, which an earlier try uploaded", job.id, found.id)
            _succeed(runtime, job, found)
            return
    progress = TransferProgress(runtime, job, SOURCE)
    progress.write(message="Validating and uploading the file")
    validation = runtime.settings.validation
    with source(job.spec.uri, validation.max_bytes) as file:
        reader = ValidatingReader(file, validation, progress)
        reader.validate_ahead()
        begun, _ = runtime.store.run(records.begin(job.id, tries=job.tries))
        if begun is not records.Begun.BEGUN:
            return
        with counted_try(runtime, job, SOURCE):
            uploaded = api.upload_file(reader, name)
    logger.info("%s: uploaded %s, %d bytes", job.id, uploaded.id, reader.size_bytes)
    updated = _succeed(runtime, job, uploaded, **progress.fields)
    if updated.outcome is records.UpdateOutcome.REFUSED:
        _delete_unused(runtime, job, uploaded)


def _succeed(runtime: Runtime, job: Job, file: FileObject, **transferred: int) -> records.Updated:
    return runtime.end(
        job.id,
        SOURCE,
        JobState.SUCCEEDED,
        "",
        input_file_id=file.id,
        result=orjson.dumps({"file_id": file.id}).decode(),
        failures=None,
        **transferred,
    )


def _delete_unused(runtime: Runtime, job: Job, file: FileObject) -> None:
    """Delete a file whose job was cancelled while it was being uploaded."""
    try:
        runtime.openai(job.spec.credential).delete_file(file.id)
    except OpenAIError as error:
        logger.warning("%s: could not delete %s at OpenAI: %s", job.id, file.id, error)
