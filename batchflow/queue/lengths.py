"""How much waits in Celery's queues, and for how long."""

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

#: One look at a time: a broker that hangs shall not get hold of one thread after the other.
_looking = threading.Lock()


@dataclass(frozen=True)
class QueueLength:
    """What is in a queue; messages that a worker has taken are not."""

    messages: int
    #: How long the oldest message has waited. None when there is none, and with other brokers than
    #: Redis, which hand messages out and don't show them.
    oldest_s: float | None = None


def queue_lengths(
    app: Celery, queues: Sequence[str], *, patience_s: float
) -> dict[str, QueueLength]:
    """Look into the queues; raises QueueUnavailable when the broker is away or doesn't answer.

    ``patience_s`` is for each step on the way: an earlier look, a connection, an answer.
    """
    if not _looking.acquire(timeout=patience_s):
        raise QueueUnavailable("Celery's broker still has to answer an earlier question.")
    try:
        # What kombu's channels offer depends on the broker.
        connection: Any
        with app.connection_for_read(
            connect_timeout=patience_s, transport_options=_timeouts(patience_s)
        ) as connection:
            try:
                return {queue: _look(connection, queue) for queue in queues}
            except (KombuError, *connection.connection_errors, *connection.channel_errors) as error:
                raise QueueUnavailable(f"Celery's broker can't be asked: {error}") from error
    finally:
        _looking.release()


def _timeouts(seconds: float) -> dict[str, float]:
    redis, amqp = ("socket_timeout", "socket_connect_timeout"), ("read_timeout", "write_timeout")
    return dict.fromkeys((*redis, *amqp), seconds)


def _look(connection: Any, queue: str) -> QueueLength:
    if connection.transport.driver_type == _REDIS:
        return _look_into_list(connection.default_channel.client, queue)
    # A channel of its own: the answer that there is no such queue closes it.
    with connection.channel() as channel:
        try:
            return QueueLength(channel.queue_declare(queue=queue, passive=True).message_count)
        except connection.channel_errors as error:
            if int(getattr(error, "reply_code", 0)) != _NOT_FOUND:
                raise
            # The first message makes it.
            return QueueLength(0)


def _look_into_list(redis: Any, queue: str) -> QueueLength:
    """kombu pushes messages from the left and takes them from the right."""
    with redis.pipeline(transaction=False) as pipeline:
        messages, oldest = pipeline.llen(queue).lindex(queue, -1).execute()
    sent_at = json.loads(oldest)["headers"].get(SENT_AT) if oldest else None
    # Clocks of two machines may differ.
    return QueueLength(messages, None if sent_at is None else max(0.0, time.time() - sent_at))
