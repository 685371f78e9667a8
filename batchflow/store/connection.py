"""How a process connects to Redis."""

from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from batchflow.settings import Settings
from batchflow.store.stores import AsyncJobStore, JobStore

#: A command is tried this often before Redis counts as unreachable: long enough for a dropped
#: connection, short enough for a `get` that has to answer.
_RETRIES = 2
_TIMEOUT_S = 5.0


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        "health_check_interval": 30,
        "client_name": "batchflow",
    }


def connect(settings: Settings) -> JobStore:
    """The store for a blocking process. Nothing is sent before the first command."""
    retry = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), _RETRIES)
    redis = Redis.from_url(settings.require_redis_url(), retry=retry, **_options(settings))
    return JobStore(redis, settings.key_prefix)


def connect_async(settings: Settings) -> AsyncJobStore:
    """The store for the running event loop. Nothing is sent before the first command."""
    retry = AsyncRetry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), _RETRIES)
    redis = AsyncRedis.from_url(settings.require_redis_url(), retry=retry, **_options(settings))
    return AsyncJobStore(redis, settings.key_prefix)
