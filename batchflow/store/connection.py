"""How a process connects to Redis."""

import logging
from typing import Any

from redis import Redis, Sentinel
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import Sentinel as AsyncSentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from batchflow.errors import InvalidSettings
from batchflow.redis_url import check_redis_url, is_sentinel, parse_sentinel
from batchflow.settings import Settings
from batchflow.store.job_store import AsyncJobStore, JobStore
from batchflow.store.redis_server import eviction_policy

logger = logging.getLogger(__name__)

#: Retries of a command before Redis counts as unavailable: enough for a dropped connection, and few
#: enough for a `get` that must answer in time.
_RETRIES = 2
_TIMEOUT_S = 5.0


def connect(settings: Settings) -> JobStore:
    """The store for a blocking process. Nothing is sent before the first command."""
    return JobStore(_client(settings, Redis, Sentinel, Retry), settings.key_prefix)


def connect_async(settings: Settings) -> AsyncJobStore:
    """The store for the running event loop. Nothing is sent before the first command."""
    redis = _client(settings, AsyncRedis, AsyncSentinel, AsyncRetry)
    return AsyncJobStore(redis, settings.key_prefix)


def warn_of_eviction(store: JobStore) -> None:
    """Log a warning if Redis may evict records; raises StoreUnavailable."""
    limit_bytes, policy = store.run(eviction_policy())
    if limit_bytes and policy != "noeviction":
        logger.warning(
            "Redis has a memory limit and the eviction policy %s: it will evict live jobs. Set "
            "maxmemory-policy to noeviction.",
            policy,
        )


def _client(settings: Settings, redis_class: Any, sentinel_class: Any, retry_class: Any) -> Any:
    url = settings.require_redis_url()
    check_redis_url(url)
    options = {
        "decode_responses": True,
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        "health_check_interval": 30,
        "client_name": "batchflow",
        "retry": retry_class(ExponentialWithJitterBackoff(cap=0.5, base=0.05), _RETRIES),
    }
    if not is_sentinel(url):
        try:
            return redis_class.from_url(url, **options)
        except ValueError as error:
            # The message contains the option's name, and not its value.
            raise InvalidSettings(f"BATCHFLOW_REDIS_URL can't be used. {error}") from None
    # This client asks the Sentinels for the master whenever it connects.
    address = parse_sentinel(url)
    sentinel_options = address.sentinel_options | {"retry": retry_class(NoBackoff(), 0)}
    sentinel = sentinel_class(address.sentinels, sentinel_kwargs=sentinel_options)
    login = {"db": address.db, "username": address.username, "password": address.password}
    return sentinel.master_for(address.master, **login, **options)
