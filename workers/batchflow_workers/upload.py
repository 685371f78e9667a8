"""Bring a JSONL file from where Flyte put it to OpenAI, after a look at every line."""

import logging
from collections.abc import Iterable

import orjson
from openai.types import FileObject

from batchflow.errors import OpenAIError
from batchflow.jobs import Job, UploadSpec
from batchflow.jsonl import JsonlValidator
from batchflow.states import JobState
from batchflow.store import commands
from batchflow_workers.allowed import allowed_uris, check_uri
from batchflow_workers.blobs import source
from batchflow_workers.once import earliest, sending, still_settling
from batchflow_workers.progress import Progress
from batchflow_workers.runtime import Runtime
from batchflow_workers.step import end, postpone

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
    with source(job.spec.uri) as (chunks, file):
        _check(runtime, job, chunks)
        begun, _ = runtime.store.run(commands.begin(job.id, tries=job.tries))
        if begun is not commands.Begun.BEGUN:
            return
        with sending(runtime, job, SOURCE):
            sent = api.upload_file(file, name)
    logger.info("%s: sent %s, %d bytes", job.id, sent.id, sent.bytes)
    if _succeed(runtime, job, sent).outcome is commands.Outcome.REFUSED:
        _tidy_up(runtime, job, sent)


def _check(runtime: Runtime, job: Job, chunks: Iterable[bytes]) -> None:
    """Look at each line; raises InvalidInput with all that is wrong."""
    validator = JsonlValidator(runtime.settings.validation)
    progress = Progress(runtime, job, SOURCE)
    progress.start("Reading and checking the file")
    for chunk in chunks:
        validator.feed(chunk)
        progress.add(len(chunk))
    summary = validator.finish()
    progress.finish("Sending the file to OpenAI", total=summary.lines, model=summary.model)


def _succeed(runtime: Runtime, job: Job, file: FileObject) -> commands.Updated:
    return end(
        runtime,
        job.id,
        SOURCE,
        JobState.SUCCEEDED,
        "",
        input_file_id=file.id,
        result=orjson.dumps({"file_id": file.id}).decode(),
        failures=None,
    )


def _tidy_up(runtime: Runtime, job: Job, file: FileObject) -> None:
    """The job was cancelled while the file was on its way: nobody will use it."""
    try:
        runtime.openai(job.spec.credential).delete_file(file.id)
    except OpenAIError as error:
        logger.warning("%s: %s stays at OpenAI: %s", job.id, file.id, error)
