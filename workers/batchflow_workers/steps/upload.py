"""Upload a JSONL file to OpenAI, at most once, and validate each line of it."""

import logging
from collections.abc import Sequence

import orjson
from openai.types import FileObject

from batchflow.jobs import Credential, Job, UploadSpec
from batchflow.states import JobState
from batchflow.store import records
from batchflow_workers.at_most_once import (
    begin,
    counted_try,
    settle_later,
    until_recorded,
    until_searchable_s,
)
from batchflow_workers.duplicates import delete_second_files
from batchflow_workers.files.storage import source
from batchflow_workers.files.transfer_progress import TransferProgress
from batchflow_workers.files.uri_allowlist import allowed_uris, check_uri
from batchflow_workers.files.validating_reader import ValidatingReader
from batchflow_workers.lease import Lease
from batchflow_workers.matching import file_name, is_searching, matches, named_job
from batchflow_workers.runtime import Runtime
from batchflow_workers.search import Candidates, Listing, Taken, search

logger = logging.getLogger(__name__)

SOURCE = "upload"


def upload(runtime: Runtime, job: Job, held: Lease) -> None:
    """Upload the file as ``<job id>.jsonl``, or find the one that an earlier try uploaded."""
    if not isinstance(job.spec, UploadSpec):
        return
    check_uri(job.spec.uri, allowed_uris(runtime.settings))
    api = runtime.openai(job.spec.credential)
    if job.tries:
        if wait_s := until_searchable_s(runtime, job):
            runtime.postpone(job.id, SOURCE, wait_s, _FILES.message)
            return
        if not search(runtime, api, job, _FILES).complete:
            return
    progress = TransferProgress(runtime, job, SOURCE)
    progress.write(message="Validating and uploading the file")
    validation = runtime.settings.validation
    with source(job.spec.uri, validation.max_bytes) as file:
        reader = ValidatingReader(file, validation, progress)
        reader.validate_ahead()
        this_try = begin(runtime, job, SOURCE, _FILES.message)
        if this_try.begun is not records.Begun.BEGUN:
            return

        def before_piece(is_last: bool) -> None:
            if is_last:
                settle_later(runtime, job, this_try)
            held.require()

        reader.before_piece = before_piece
        with counted_try(runtime, job, this_try):
            uploaded = api.upload_file(reader, file_name(job.id))
    logger.info("%s: uploaded %s, %d bytes", job.id, uploaded.id, reader.size_bytes)
    updated = until_recorded(job, lambda: _succeed(runtime, job, uploaded, **progress.fields))
    if updated.outcome is records.UpdateOutcome.REFUSED:
        # The job was cancelled meanwhile, or another worker has found or uploaded a file.
        delete_second_files(runtime, job.spec.credential, [uploaded], SOURCE, created_now=True)


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


def _take(
    runtime: Runtime, credential: Credential, page: list[FileObject], candidates: Candidates
) -> Taken[FileObject]:
    """End the jobs whose files are on a page. Flyte may know the oldest file of a job already."""
    jobs = candidates.of(name for file in page if (name := named_job(file)))
    found: set[str] = set()
    unused = []
    for file in reversed(page):
        name = named_job(file)
        if name is None:
            continue
        for job in jobs[name]:
            if is_searching(job) and job.id not in found and matches(job, file, credential):
                logger.info("%s: found %s, which an earlier try uploaded", job.id, file.id)
                updated = _succeed(runtime, job, file)
                found.add(job.id)
                if updated.outcome is not records.UpdateOutcome.APPLIED:
                    unused.append(file)
                break
        else:
            unused.append(file)
    return Taken(found, unused=unused)


def _dispose(runtime: Runtime, credential: Credential, files: Sequence[FileObject]) -> None:
    delete_second_files(runtime, credential, files, SOURCE)


#: The list in which a search finds files.
_FILES = Listing(
    "files",
    SOURCE,
    "Checking whether OpenAI already has this file",
    lambda api, not_before, after: api.file_pages(not_before=not_before, after=after),
    _take,
    _dispose,
)
