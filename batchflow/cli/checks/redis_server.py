"""Redis: whether it answers, and whether it keeps what it is given."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from redis.exceptions import ResponseError

from batchflow.cli.checks.check import CheckContext, CheckResult, Level
from batchflow.errors import StoreUnavailable
from batchflow.store import records
from batchflow.store import redis_server as redis_says

#: ``ZRANGE ... BYLEX REV LIMIT`` and ``ZMSCORE`` came with it.
_OLDEST: Final = (6, 2)
_TRIES: Final = 5
_SLOW_MS: Final = 20.0
#: Shares of the memory limit.
_MUCH, _TOO_MUCH = 0.75, 0.9
#: A record's longest fields, ``spec``, ``result`` and ``history``, mostly fit in this.
_FIELD_BYTES: Final = 2_048
_MB: Final = 1_000_000


async def answers(look: CheckContext) -> Iterable[CheckResult]:
    """How long a command takes: the quickest of a few, since the other checks are at work."""
    took_ms = []
    try:
        for _ in range(_TRIES):
            began = time.perf_counter()
            await look.store.run(records.time())
            took_ms.append((time.perf_counter() - began) * 1_000)
            await asyncio.sleep(0)
    except StoreUnavailable as error:
        advice = "Look whether Redis runs, at BATCHFLOW_REDIS_URL, and at what is between."
        return [CheckResult(Level.PROBLEM, "connection", str(error), advice)]
    quickest_ms = min(took_ms)
    seen = f"answers in {quickest_ms:.1f} ms"
    if quickest_ms > _SLOW_MS:
        advice = "Each step takes several commands: put Redis next to the workers."
        return [CheckResult(Level.WARNING, "connection", seen, advice)]
    return [CheckResult(Level.OK, "connection", seen)]


async def server(look: CheckContext) -> Iterable[CheckResult]:
    """Its version, and how it keeps data."""
    try:
        info = await look.store.run(redis_says.info())
    except ResponseError:
        seen = "this Redis doesn't tell its version, persistence and memory"
        return [CheckResult(Level.NOTE, "server", seen)]
    return [_version(info), _persistence(info), _eviction(info), _memory(info)]


async def record_encoding(look: CheckContext) -> Iterable[CheckResult]:
    """Whether it keeps a job's record in its compact form."""
    try:
        found = await look.store.run(redis_says.config("hash-max-*-value"))
    except ResponseError:
        return []
    # Redis 7 has two names for it, and gives the one that it was asked for or both.
    limits = [int(value) for value in found.values()]
    if not limits or max(limits) >= _FIELD_BYTES:
        return []
    advice = f"`hash-max-listpack-value {_FIELD_BYTES}` would keep them in about a third of it."
    seen = "records are kept in the form that takes more memory"
    return [CheckResult(Level.NOTE, "records", seen, advice)]


def _version(info: Mapping[str, Any]) -> CheckResult:
    version = str(info.get("redis_version", "unknown"))
    if info.get("redis_mode") == "cluster":
        advice = "Use a Redis without cluster mode; Sentinel is fine."
        return CheckResult(Level.PROBLEM, "version", f"{version} in cluster mode", advice)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return CheckResult(Level.PROBLEM, "version", version, f"Use Redis {oldest} or a later one.")
    return CheckResult(Level.OK, "version", version)


def _persistence(info: Mapping[str, Any]) -> CheckResult:
    if "err" in (info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status")):
        advice = "Look at Redis' log and disk: until it can save, it may refuse to write."
        return CheckResult(Level.PROBLEM, "persistence", "its last write to disk failed", advice)
    if info.get("aof_enabled"):
        return CheckResult(Level.OK, "persistence", "append-only file")
    advice = (
        "Set `appendonly yes`. Without it no batch is lost, but finding the jobs again at OpenAI "
        "costs time."
    )
    seen = "no append-only file: a restart loses the last changes, or everything"
    return CheckResult(Level.WARNING, "persistence", seen, advice)


def _eviction(info: Mapping[str, Any]) -> CheckResult:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return CheckResult(Level.OK, "eviction", policy)
    if not info.get("maxmemory"):
        return CheckResult(Level.OK, "eviction", f"{policy}, but there is no memory limit")
    advice = "Set `maxmemory-policy noeviction`: it will throw away jobs that are live."
    return CheckResult(Level.PROBLEM, "eviction", policy, advice)


def _memory(info: Mapping[str, Any]) -> CheckResult:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return CheckResult(Level.OK, "memory", f"{used / _MB:,.1f} MB, no limit")
    seen = f"{used / _MB:,.1f} of {limit / _MB:,.1f} MB"
    share = used / limit
    if share < _MUCH:
        return CheckResult(Level.OK, "memory", seen)
    advice = "Give it more, or set BATCHFLOW_RETENTION_S lower: when it is full, jobs stand still."
    return CheckResult(
        Level.PROBLEM if share > _TOO_MUCH else Level.WARNING, "memory", seen, advice
    )
