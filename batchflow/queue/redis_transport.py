"""kombu's Redis transport, changed so that a worker survives a lost connection.

When the connection is lost while a step is running, kombu's own transport raises errors that Celery
treats as unrecoverable, first when it closes the channel and then when the message is acknowledged
on the closed channel; the worker exits. The error of a closed channel is known upstream:
https://github.com/celery/kombu/issues/582.
"""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, QoS, SentinelChannel, SentinelTransport, Transport


class _QoS(QoS):
    def ack(self, delivery_tag: str) -> None:
        if self.channel.closed or self.channel.connection is None:
            # Celery logs this and continues; the message is delivered again, which does no harm.
            raise ConnectionError("The connection that delivered the message was lost.")
        super().ack(delivery_tag)


class _Channel(Channel):
    QoS = _QoS
    # The sweep enqueues again whatever was not acknowledged when the channel closed.
    do_restore = False


class _SentinelChannel(SentinelChannel):
    QoS = _QoS
    do_restore = False


class RedisTransport(Transport):
    """Redis, with or without TLS, or through a socket."""

    Channel = _Channel


class RedisSentinelTransport(SentinelTransport):
    """Redis under Sentinel."""

    Channel = _SentinelChannel


def register_transports() -> None:
    """Have kombu use these transports instead of its own."""
    ours: dict[str, Any] = {
        "redis": f"{__name__}:RedisTransport",
        "rediss": f"{__name__}:RedisTransport",
        "sentinel": f"{__name__}:RedisSentinelTransport",
    }
    TRANSPORT_ALIASES.update(ours)
