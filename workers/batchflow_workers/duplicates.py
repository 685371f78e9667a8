"""Second batches and files of jobs: cancelled or deleted at OpenAI, and reported.

A request may take effect long after its timeout, and a store may forget what it had. What comes of
that is seen by the worker that has made it, by a search, or on a page of a poll.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from openai.types import Batch, FileObject

from batchflow.errors import OpenAIError, OpenAIRefused
from batchflow.jobs import Credential, Job
from batchflow.states import Stage, stage_of
from batchflow.store import metrics, records
from batchflow_workers.at_most_once import until_recorded
from batchflow_workers.matching import is_second, named_job
from batchflow_workers.runtime import Runtime

logger = logging.getLogger(__name__)

T = TypeVar("T", Batch, FileObject)


def cancel_second_batches(
    runtime: Runtime, credential: Credential, batches: Iterable[Batch], source: str
) -> None:
    """Cancel those of these batches that are live and not the ones that their jobs use."""
    live = [batch for batch in batches if stage_of(batch.status) < Stage.ENDED]
    for job, batch in _second(runtime, credential, live):
        try:
            if batch.status != "cancelling":
                batch = runtime.openai(credential).cancel_batch(batch.id)  # noqa: PLW2901 - as it is now
        except OpenAIError as error:
            logger.warning("%s: could not cancel its second batch %s: %s", job.id, batch.id, error)
            continue
        if batch.status in ("cancelling", "cancelled"):
            note = f"Cancelled a second batch of this job at OpenAI: {batch.id}"
        else:
            note = f"A second batch of this job at OpenAI could not be cancelled: {batch.id}"
        _report(runtime, job, note, source, "duplicate_batches")


def delete_second_files(
    runtime: Runtime,
    credential: Credential,
    files: Iterable[FileObject],
    source: str,
    *,
    created_now: bool = False,
) -> None:
    """Delete those of these files that are not the ones that their jobs use.

    Unless a file was ``created_now``, it must be the newer one: Redis may have forgotten that Flyte
    received the older one.
    """
    for job, file in _second(runtime, credential, files):
        try:
            api = runtime.openai(credential)
            if job.input_file_id and not created_now:
                used = api.retrieve_file(job.input_file_id)
                if file.created_at < used.created_at:
                    continue
            api.delete_file(file.id)
        except OpenAIError as error:
            level = logging.INFO if isinstance(error, OpenAIRefused) else logging.WARNING
            logger.log(level, "%s: did not delete %s at OpenAI: %s", job.id, file.id, error)
            continue
        note = f"Deleted a file at OpenAI that this job does not use: {file.id}"
        _report(runtime, job, note, source, "unused_files")


def _second(
    runtime: Runtime, credential: Credential, items: Iterable[T]
) -> Iterator[tuple[Job, T]]:
    """The batches or files that their jobs do not use, with these jobs as they are now."""
    named = [(name, item) for item in items if (name := named_job(item))]
    jobs = runtime.store.run_all([records.get(name) for name, _ in named])
    for job, (_, item) in zip(jobs, named, strict=True):
        if job and is_second(job, item, credential):
            # Another generation may use it.
            user = runtime.store.run(records.find_job(item.id))
            if user in (None, job.id):
                yield job, item


def _report(runtime: Runtime, job: Job, note: str, source: str, counter: str) -> None:
    logger.warning("%s: %s", job.id, note)
    write = records.note(job.id, note, source=source)
    if until_recorded(job, lambda: runtime.store.run(write)):
        runtime.count(metrics.count(counter, source))
