"""The Celery tasks of Batchflow, the queues that they go to, and their time limits."""

from enum import StrEnum
from typing import Final

from batchflow.states import JobKind

#: The longest time for a step, such as a transfer of 200 MB over a slow line.
STEP_LIMIT_S: Final = 3_600
#: Redis delivers a message again after this time without an acknowledgement. It must be longer than
#: any step, or a step would run twice at once.
VISIBILITY_TIMEOUT_S: Final = 2 * STEP_LIMIT_S
#: A new job is due after this time, in case its message was lost.
LOST_MESSAGE_CHECK_S: Final = 10.0
#: How long a worker that stops lets its steps continue.
SOFT_SHUTDOWN_S: Final = 30.0
#: The header of a message with the time of sending, epoch seconds by the sender's clock.
SENT_AT: Final = "sent_at"


class Queue(StrEnum):
    """Celery's queues, without the key prefix: ``batchflow.submit`` and so on."""

    SUBMIT = "submit"
    POLL = "poll"
    FILES = "files"


class Step(StrEnum):
    """The Celery tasks."""

    SUBMIT = "batchflow.submit"
    CANCEL = "batchflow.cancel"
    SWEEP = "batchflow.sweep"
    POLL = "batchflow.poll"
    #: Observe one batch now, because a webhook reports its end.
    REFRESH = "batchflow.refresh"
    #: Read a batch's error file for its most frequent error, for someone who views the job.
    EXPLAIN = "batchflow.explain"
    UPLOAD = "batchflow.upload"
    DOWNLOAD = "batchflow.download"


QUEUE_OF: Final[dict[Step, Queue]] = {
    Step.SUBMIT: Queue.SUBMIT,
    Step.CANCEL: Queue.SUBMIT,
    Step.SWEEP: Queue.POLL,
    Step.POLL: Queue.POLL,
    Step.REFRESH: Queue.POLL,
    Step.EXPLAIN: Queue.FILES,
    Step.UPLOAD: Queue.FILES,
    Step.DOWNLOAD: Queue.FILES,
}

#: The step that advances a job of this kind.
STEP_OF: Final[dict[JobKind, Step]] = {
    JobKind.UPLOAD: Step.UPLOAD,
    JobKind.BATCH: Step.SUBMIT,
    JobKind.DOWNLOAD: Step.DOWNLOAD,
}


def queue_name(prefix: str, queue: str) -> str:
    """The name of a queue at the broker; with Redis, a LIST of that name."""
    return f"{prefix}.{queue}"
