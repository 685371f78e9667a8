"""Redis: whether it responds, and whether it keeps its data."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from redis.exceptions import ResponseError

from batchflow.cli.checks.check import CheckContext, CheckResult, Level
from batchflow.errors import StoreUnavailable
from batchflow.store import records, redis_server

#: Has ``ZRANGE ... BYLEX REV LIMIT`` and ``ZMSCORE``.
_MIN_VERSION: Final = (6, 2)
_TRIES: Final = 5
_SLOW_MS: Final = 20.0
#: Shares of the memory limit.
_MEMORY_WARNING, _MEMORY_PROBLEM = 0.75, 0.9
#: Most values of a record's longest fields (``spec``, ``result``, ``history``) are shorter.
_FIELD_BYTES: Final = 2_048
_MB: Final = 1_000_000


async def connection(context: CheckContext) -> Iterable[CheckResult]:
    """Measure the time of a command: the fastest of a few, since other checks run meanwhile."""
    took_ms = []
    try:
        for _ in range(_TRIES):
            began = time.perf_counter()
            await context.store.run(records.time())
            took_ms.append((time.perf_counter() - began) * 1_000)
            await asyncio.sleep(0)
    except StoreUnavailable as error:
        advice = "Check that Redis is running, BATCHFLOW_REDIS_URL, and the network."
        return [CheckResult(Level.PROBLEM, "connection", str(error), advice)]
    fastest_ms = min(took_ms)
    seen = f"responds in {fastest_ms:.1f} ms"
    if fastest_ms > _SLOW_MS:
        advice = "Run Redis close to the workers: every step sends several commands."
        return [CheckResult(Level.WARNING, "connection", seen, advice)]
    return [CheckResult(Level.OK, "connection", seen)]


async def server(context: CheckContext) -> Iterable[CheckResult]:
    """Check the server's version, persistence, eviction policy and memory."""
    try:
        info = await context.store.run(redis_server.info())
    except ResponseError:
        seen = "this Redis does not report its version, persistence and memory"
        advice = (
            "Allow Batchflow's user to call INFO. Without it, workers do not notice that Redis was "
            "restored to an earlier time, and may create batches twice."
        )
        return [CheckResult(Level.NOTE, "server", seen, advice)]
    return [_version(info), _persistence(info), _eviction(info), _memory(info)]


async def record_encoding(context: CheckContext) -> Iterable[CheckResult]:
    """Check that Redis stores job records in its compact encoding."""
    try:
        found = await context.store.run(redis_server.config("hash-max-*-value"))
    except ResponseError:
        return []
    # Redis 7 has two names for this setting and may return both.
    limits = [int(value) for value in found.values()]
    if not limits or max(limits) >= _FIELD_BYTES:
        return []
    advice = f"Set `hash-max-listpack-value {_FIELD_BYTES}` to save about two thirds of it."
    seen = "not in the compact encoding, so they take more memory"
    return [CheckResult(Level.NOTE, "records", seen, advice)]


def _version(info: Mapping[str, Any]) -> CheckResult:
    version = str(info.get("redis_version", "unknown"))
    if info.get("redis_mode") == "cluster":
        advice = "Use a Redis without cluster mode; Sentinel is supported."
        return CheckResult(Level.PROBLEM, "version", f"{version} in cluster mode", advice)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < _MIN_VERSION:
        advice = f"Use Redis {'.'.join(map(str, _MIN_VERSION))} or later."
        return CheckResult(Level.PROBLEM, "version", version, advice)
    return CheckResult(Level.OK, "version", version)


def _persistence(info: Mapping[str, Any]) -> CheckResult:
    if "err" in (info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status")):
        advice = "Check Redis' log and disk. Redis may refuse writes until it can save."
        return CheckResult(Level.PROBLEM, "persistence", "the last write to disk failed", advice)
    if info.get("aof_enabled"):
        return CheckResult(Level.OK, "persistence", "append-only file")
    advice = (
        "Set `appendonly yes`. After a loss, batches are found again at OpenAI, but the search "
        "takes time."
    )
    seen = "no append-only file: a restart loses the last changes, or all data"
    return CheckResult(Level.WARNING, "persistence", seen, advice)


def _eviction(info: Mapping[str, Any]) -> CheckResult:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return CheckResult(Level.OK, "eviction", policy)
    if not info.get("maxmemory"):
        return CheckResult(Level.OK, "eviction", f"{policy}, but there is no memory limit")
    advice = "Set `maxmemory-policy noeviction`, or Redis will delete live jobs when it is full."
    return CheckResult(Level.PROBLEM, "eviction", policy, advice)


def _memory(info: Mapping[str, Any]) -> CheckResult:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return CheckResult(Level.OK, "memory", f"{used / _MB:,.1f} MB, no limit")
    seen = f"{used / _MB:,.1f} of {limit / _MB:,.1f} MB"
    share = used / limit
    if share < _MEMORY_WARNING:
        return CheckResult(Level.OK, "memory", seen)
    advice = "Raise the limit or lower BATCHFLOW_RETENTION_S: jobs stop when Redis is full."
    level = Level.PROBLEM if share > _MEMORY_PROBLEM else Level.WARNING
    return CheckResult(level, "memory", seen, advice)
