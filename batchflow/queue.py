"""Celery's queues: what is sent, where to, and the one configuration that all processes share.

A message is a nudge that carries ids; the truth is in the job's record. So it may be lost,
repeated or late.
"""

import time
from enum import StrEnum
from functools import partial
from typing import Any, Final

import kombu
from celery import Celery
from celery.signals import before_task_publish
from kombu.exceptions import OperationalError

from batchflow import keys
from batchflow.broker import install
from batchflow.errors import BatchflowError
from batchflow.redis_url import broker
from batchflow.settings import Settings
from batchflow.states import JobKind

#: The longest that one step may take, a transfer of 200 MB over a slow line included.
STEP_LIMIT_S: Final = 3_600
#: Redis hands a message out again after this long without an acknowledgement; it must be longer
#: than any step, or a step would run twice at once.
VISIBILITY_TIMEOUT_S: Final = 2 * STEP_LIMIT_S
#: A job whose message may be lost is looked at after this.
FIRST_NUDGE_S: Final = 10.0
#: How long a stopping worker lets its steps go on.
SOFT_SHUTDOWN_S: Final = 30.0
#: The header of a message that says when it was sent, epoch seconds by the sender's clock.
SENT_AT: Final = "sent_at"


class Queue(StrEnum):
    """Celery's queues, behind the key prefix: ``batchflow.submit`` and so on."""

    SUBMIT = "submit"
    POLL = "poll"
    FILES = "files"


class Step(StrEnum):
    """The Celery tasks."""

    SUBMIT = "batchflow.submit"
    CANCEL = "batchflow.cancel"
    SWEEP = "batchflow.sweep"
    POLL = "batchflow.poll"
    #: Look at one batch now: a webhook says that it has ended.
    REFRESH = "batchflow.refresh"
    #: Read a batch's error file for its most frequent error: somebody looks at the job.
    EXPLAIN = "batchflow.explain"
    UPLOAD = "batchflow.upload"
    DOWNLOAD = "batchflow.download"


_STEPS: Final = frozenset[str](Step)

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

#: The step that does a job of this kind.
STEP_OF: Final[dict[JobKind, Step]] = {
    JobKind.UPLOAD: Step.UPLOAD,
    JobKind.BATCH: Step.SUBMIT,
    JobKind.DOWNLOAD: Step.DOWNLOAD,
}


class QueueUnavailable(BatchflowError):
    """Raised when the broker doesn't take a message; the sweep sends it later."""


def make_app(settings: Settings) -> Celery:
    """A Celery app that sends and receives Batchflow's messages."""
    queue_name = partial(keys.queue, settings.key_prefix)
    install()
    broker_url, broker_options = broker(settings.require_broker_url())
    app = Celery("batchflow", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        # The job's record is the result.
        result_backend=None,
        task_ignore_result=True,
        task_default_queue=queue_name(Queue.SUBMIT),
        # A worker that is given no -Q works on all of them.
        task_queues=[kombu.Queue(name, routing_key=name) for name in all_queues(settings)],
        task_routes={step: {"queue": queue_name(queue)} for step, queue in QUEUE_OF.items()},
        # A message whose worker dies is handed to another one.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=STEP_LIMIT_S,
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=SOFT_SHUTDOWN_S,
        # For Flower and celery-exporter.
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            # Whoever sends does not wait for a broker that is away: kombu would, for six seconds.
            "max_retries": 1,
            "interval_start": 0.2,
            **broker_options,
        },
        # The schedule is in the code; nothing is worth a file on disk.
        beat_scheduler="celery.beat:Scheduler",
        timezone="UTC",
    )
    return app


@before_task_publish.connect
def _stamp(sender: str, headers: dict[str, Any], **_: object) -> None:
    """Ours, whoever sends them: beat does so by itself."""
    if sender in _STEPS:
        headers[SENT_AT] = time.time()


def all_queues(settings: Settings) -> list[str]:
    """The names of all queues."""
    return [keys.queue(settings.key_prefix, queue) for queue in Queue]


class Sender:
    """Sends steps to the workers."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, step: Step, *args: Any, expires_s: float | None = None) -> None:
        """Queue a step; raises QueueUnavailable when the broker is away."""
        try:
            self._app.send_task(step, args=args, expires=expires_s, retry=False, ignore_result=True)
        except (OperationalError, OSError) as error:
            raise QueueUnavailable(f"Celery's broker can't be reached: {error}") from error
