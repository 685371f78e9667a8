"""Bring a JSONL file from where Flyte put it to OpenAI, with a look at every line."""

import logging

import orjson
from openai.types import FileObject

from batchflow.errors import OpenAIError
from batchflow.jobs import Job, UploadSpec
from batchflow.states import JobState
from batchflow.store import records
from batchflow_workers.at_most_once import earliest, sending, still_settling
from batchflow_workers.files.storage import source
from batchflow_workers.files.transfer_progress import Progress
from batchflow_workers.files.uri_allowlist import allowed_uris, check_uri
from batchflow_workers.files.validating_reader import ValidatingReader
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps.runner import end, postpone

logger = logging.getLogger(__name__)

SOURCE = "upload"


def upload(runtime: Runtime, job: Job) -> None:
    """Upload the file as ``<job id>.jsonl``, or find the one that an earlier try sent."""
    if not isinstance(job.spec, UploadSpec):
        return
    check_uri(job.spec.uri, allowed_uris(runtime.settings))
    api = runtime.openai(job.spec.credential)
    name = f"{job.id}.jsonl"
    if job.tries:
        if wait_s := still_settling(runtime, job):
            postpone(
                runtime, job.id, SOURCE, wait_s, "Finding out whether OpenAI has this file already"
            )
            return
        if found := api.find_file(name, not_before=earliest(job)):
            logger.info("%s: an earlier try had sent %s", job.id, found.id)
            _succeed(runtime, job, found)
            return
    progress = Progress(runtime, job, SOURCE)
    progress.tell(message="Reading, checking and sending the file")
    validation = runtime.settings.validation
    with source(job.spec.uri, validation.max_bytes) as file:
        checked = ValidatingReader(file, validation, progress)
        checked.look_ahead()
        begun, _ = runtime.store.run(records.begin(job.id, tries=job.tries))
        if begun is not records.Begun.BEGUN:
            return
        with sending(runtime, job, SOURCE):
            sent = api.upload_file(checked, name)
    logger.info("%s: sent %s, %d bytes", job.id, sent.id, checked.size_bytes)
    if _succeed(runtime, job, sent, **progress.fields).outcome is records.UpdateOutcome.REFUSED:
        _tidy_up(runtime, job, sent)


def _succeed(runtime: Runtime, job: Job, file: FileObject, **moved: int) -> records.Updated:
    return end(
        runtime,
        job.id,
        SOURCE,
        JobState.SUCCEEDED,
        "",
        input_file_id=file.id,
        result=orjson.dumps({"file_id": file.id}).decode(),
        failures=None,
        **moved,
    )


def _tidy_up(runtime: Runtime, job: Job, file: FileObject) -> None:
    """The job was cancelled while the file was on its way: nobody will use it."""
    try:
        runtime.openai(job.spec.credential).delete_file(file.id)
    except OpenAIError as error:
        logger.warning("%s: %s stays at OpenAI: %s", job.id, file.id, error)
