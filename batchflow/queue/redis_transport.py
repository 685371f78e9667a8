"""Celery's Redis transport, for workers that outlive their Redis.

kombu's own breaks when the connection is lost while a step is under way and its message not yet
acknowledged: first closing the channel, then acknowledging on the closed one raises what Celery
takes for unrecoverable, and the worker exits.
"""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, QoS, SentinelChannel, SentinelTransport, Transport


class _QoS(QoS):
    def ack(self, delivery_tag: str) -> None:
        if self.channel.closed or self.channel.connection is None:
            # Celery logs this and goes on; the message is delivered again, which does no harm.
            raise ConnectionError("The connection by which the message came is gone.")
        super().ack(delivery_tag)


class _Channel(Channel):
    QoS = _QoS
    # What is not acknowledged when the channel closes, the sweep sends again.
    do_restore = False


class _SentinelChannel(SentinelChannel):
    QoS = _QoS
    do_restore = False


class RedisTransport(Transport):
    """Redis, also with TLS or by a socket."""

    Channel = _Channel


class RedisSentinelTransport(SentinelTransport):
    """Redis under Sentinel."""

    Channel = _SentinelChannel


def install() -> None:
    """Have kombu take these for its own, also when it goes from one Sentinel to the next."""
    ours: dict[str, Any] = {
        "redis": f"{__name__}:RedisTransport",
        "rediss": f"{__name__}:RedisTransport",
        "sentinel": f"{__name__}:RedisSentinelTransport",
    }
    TRANSPORT_ALIASES.update(ours)
