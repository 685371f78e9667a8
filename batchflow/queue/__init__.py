"""Celery: the app, its tasks and queues, and its Redis transport."""

from batchflow.queue.app import QueueUnavailable, Sender, all_queues, make_app
from batchflow.queue.steps import (
    LOST_MESSAGE_CHECK_S,
    QUEUE_OF,
    SENT_AT,
    SOFT_SHUTDOWN_S,
    STEP_LIMIT_S,
    STEP_OF,
    VISIBILITY_TIMEOUT_S,
    Queue,
    Step,
    queue_name,
)

__all__ = [
    "LOST_MESSAGE_CHECK_S",
    "QUEUE_OF",
    "SENT_AT",
    "SOFT_SHUTDOWN_S",
    "STEP_LIMIT_S",
    "STEP_OF",
    "VISIBILITY_TIMEOUT_S",
    "Queue",
    "QueueUnavailable",
    "Sender",
    "Step",
    "all_queues",
    "make_app",
    "queue_name",
]
