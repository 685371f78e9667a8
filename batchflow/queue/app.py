"""The Celery app that all processes share, and how they enqueue steps.

A message contains only ids, and the job's record is authoritative. So a message may be lost,
repeated or late.
"""

import time
from functools import partial
from typing import Any, Final

import kombu
from celery import Celery
from celery.signals import before_task_publish
from kombu.exceptions import OperationalError

from batchflow.errors import BatchflowError
from batchflow.queue.redis_transport import register_transports
from batchflow.queue.steps import (
    QUEUE_OF,
    SENT_AT,
    SOFT_SHUTDOWN_S,
    STEP_LIMIT_S,
    VISIBILITY_TIMEOUT_S,
    Queue,
    Step,
    queue_name,
)
from batchflow.redis_url import broker
from batchflow.settings import Settings

_STEPS: Final = frozenset[str](Step)


class QueueUnavailable(BatchflowError):
    """Raised when the broker does not accept a message; the sweep sends it later."""


def make_app(settings: Settings) -> Celery:
    """The Celery app of a process."""
    name_of = partial(queue_name, settings.key_prefix)
    register_transports()
    broker_url, broker_options = broker(settings.require_broker_url())
    app = Celery("batchflow", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        # The job's record is the result.
        result_backend=None,
        task_ignore_result=True,
        task_default_queue=name_of(Queue.SUBMIT),
        # A worker without -Q takes messages from all of them.
        task_queues=[kombu.Queue(name, routing_key=name) for name in all_queues(settings)],
        task_routes={step: {"queue": name_of(queue)} for step, queue in QUEUE_OF.items()},
        # A message whose worker dies is delivered to another one.
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
            # By default, kombu would wait for an unavailable broker for six seconds.
            "max_retries": 1,
            "interval_start": 0.2,
            **broker_options,
        },
        # The schedule is in the code, so beat needs no file.
        beat_scheduler="celery.beat:Scheduler",
        timezone="UTC",
    )
    return app


@before_task_publish.connect
def _stamp(sender: str, headers: dict[str, Any], **_: object) -> None:
    """Add the time of sending to all messages of Batchflow, including beat's."""
    if sender in _STEPS:
        headers[SENT_AT] = time.time()


def all_queues(settings: Settings) -> list[str]:
    """The names of all queues."""
    return [queue_name(settings.key_prefix, queue) for queue in Queue]


class Sender:
    """Enqueues steps for the workers."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, step: Step, *args: Any, expires_s: float | None = None) -> None:
        """Enqueue a step; raises QueueUnavailable if the broker is unavailable."""
        try:
            self._app.send_task(step, args=args, expires=expires_s, retry=False, ignore_result=True)
        except (OperationalError, OSError) as error:
            raise QueueUnavailable(f"Celery's broker can't be reached: {error}") from error
