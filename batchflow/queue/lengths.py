"""The lengths of Celery's queues, and the age of their oldest messages."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError

from batchflow.queue import SENT_AT, QueueUnavailable

_NOT_FOUND = 404
_REDIS = "redis"

#: One query at a time: a broker that hangs must not block one thread after another.
_query_lock = threading.Lock()


@dataclass(frozen=True)
class QueueLength:
    """The messages in a queue that no worker has taken."""

    messages: int
    #: The age of the oldest message. None if there is none, and with brokers other than Redis,
    #: which do not show messages.
    oldest_s: float | None = None


def queue_lengths(
    app: Celery, queues: Sequence[str], *, timeout_s: float
) -> dict[str, QueueLength]:
    """Query the queues; raises QueueUnavailable if the broker is unavailable or does not answer.

    ``timeout_s`` applies to each part: an earlier query, the connection, the reply.
    """
    if not _query_lock.acquire(timeout=timeout_s):
        raise QueueUnavailable("Celery's broker has not answered an earlier query yet.")
    try:
        # What kombu's channels offer depends on the broker.
        connection: Any
        with app.connection_for_read(
            connect_timeout=timeout_s, transport_options=_timeouts(timeout_s)
        ) as connection:
            try:
                return {queue: _length(connection, queue) for queue in queues}
            except (KombuError, *connection.connection_errors, *connection.channel_errors) as error:
                raise QueueUnavailable(f"Celery's broker can't be queried: {error}") from error
    finally:
        _query_lock.release()


def _timeouts(seconds: float) -> dict[str, float]:
    redis, amqp = ("socket_timeout", "socket_connect_timeout"), ("read_timeout", "write_timeout")
    return dict.fromkeys((*redis, *amqp), seconds)


def _length(connection: Any, queue: str) -> QueueLength:
    if connection.transport.driver_type == _REDIS:
        return _length_of_list(connection.default_channel.client, queue)
    # Use a separate channel: a reply of NOT_FOUND closes it.
    with connection.channel() as channel:
        try:
            return QueueLength(channel.queue_declare(queue=queue, passive=True).message_count)
        except connection.channel_errors as error:
            if int(getattr(error, "reply_code", 0)) != _NOT_FOUND:
                raise
            # The first message creates it.
            return QueueLength(0)


def _length_of_list(redis: Any, queue: str) -> QueueLength:
    """kombu pushes messages from the left and takes them from the right."""
    with redis.pipeline(transaction=False) as pipeline:
        messages, oldest = pipeline.llen(queue).lindex(queue, -1).execute()
    sent_at = json.loads(oldest)["headers"].get(SENT_AT) if oldest else None
    # The clocks of two machines may differ.
    return QueueLength(messages, None if sent_at is None else max(0.0, time.time() - sent_at))
