"""This machine: its clock, the places to which it can write files, and its software."""

import asyncio
import contextlib
import platform
import socket
import tempfile
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import httpx2
from batchflow_workers.files.uri_allowlist import allowed_uris, local_path, shown
from flytekit import FlyteContextManager

from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.openai_client.client import base_url
from batchflow.overview.snapshot import read_snapshot
from batchflow.queue import Queue
from batchflow.store import records

_PACKAGES: Final = ("flyte-batchflow", "flytekit", "openai", "celery", "kombu", "redis")
#: A larger difference makes displayed ages wrong.
_CLOCK_WARNING_S: Final = 5.0
#: Webhooks are rejected at a difference of 300 s.
_CLOCK_PROBLEM_S: Final = 120.0
_TIMEOUT_S: Final = 8.0
#: The name of the test file, which is constant so that at most one is ever left behind.
_PROBE: Final = ".batchflow-doctor"


async def redis_clock(context: CheckContext) -> Iterable[CheckResult]:
    """Compare this machine's clock with that of Redis, which all processes use."""
    began_s = time.time()
    theirs_s = await context.store.run(records.time())
    return [_compared("Redis", theirs_s, theirs_s, began_s)]


async def openai_clock(context: CheckContext) -> Iterable[CheckResult]:
    """Check that OpenAI responds, and compare clocks by the date of the response."""
    began_s = time.time()
    try:
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S) as client:
            response = await client.get(f"{base_url().rstrip('/')}/models")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        seen = f"OpenAI can't be reached from this machine ({type(error).__name__})"
        advice = "The workers need it: check OPENAI_BASE_URL, proxies and firewalls."
        return [CheckResult(Level.WARNING, "OpenAI", seen, advice)]
    try:
        theirs_s = parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return [CheckResult(Level.NOTE, "OpenAI", "its responses have no valid date")]
    # The date has whole seconds.
    return [_compared("OpenAI", theirs_s, theirs_s + 1, began_s)]


async def file_locations(context: CheckContext) -> Iterable[CheckResult]:
    """Try to write to each allowed location.

    A failure is a problem if a worker on this machine transfers files, otherwise a warning.
    """
    here = f"@{socket.gethostname()}"
    has_worker = any(
        Queue.FILES in worker.queues and worker.name.endswith(here)
        for worker in (await read_snapshot(context.store)).live_workers
    )
    allowed = allowed_uris(context.settings)
    any_bucket = [uri for uri in allowed if local_path(uri) is None and uri.endswith("://")]
    tried = await asyncio.gather(
        *(_try_writing(uri, has_worker=has_worker) for uri in allowed if uri not in any_bucket)
    )
    if not any_bucket:
        return tried
    seen = f"not tried: every bucket is allowed ({', '.join(any_bucket)})"
    advice = "List the buckets in BATCHFLOW_ALLOWED_URIS to have them checked."
    return [CheckResult(Level.NOTE, "object stores", seen, advice), *tried]


async def software(context: CheckContext) -> Iterable[CheckResult]:
    """List the installed versions, for bug reports."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return [CheckResult(Level.OK, name, number) for name, number in found.items()]


def _compared(name: str, earliest_s: float, latest_s: float, began_s: float) -> CheckResult:
    """Compare a clock, read at some time since ``began_s``, as a range with this machine's."""
    ahead_s, behind_s = earliest_s - time.time(), began_s - latest_s
    difference_s = max(ahead_s, behind_s)
    if difference_s < _CLOCK_WARNING_S:
        seen = f"within {_CLOCK_WARNING_S:g} s of this machine's clock"
        return CheckResult(Level.OK, name, seen)
    where = "ahead of" if ahead_s > 0 else "behind"
    level = Level.PROBLEM if difference_s > _CLOCK_PROBLEM_S else Level.WARNING
    advice = "Synchronize all machines with NTP. Webhooks older than 300 s are rejected."
    seen = f"{difference_s:,.0f} s {where} this machine's clock"
    return CheckResult(level, name, seen, advice)


async def _try_writing(uri: str, *, has_worker: bool) -> CheckResult:
    name = shown(uri)
    local = local_path(uri)
    write = partial(_write_locally, local) if local else partial(_write_remotely, uri)
    try:
        left_behind = await in_thread(write)
    except Exception as error:  # noqa: BLE001 - each kind of storage has its own errors
        # Without the message, which may contain a signature.
        seen = f"not writable from this machine ({type(error).__name__})"
        advice = "The workers on the files queue need to read and write there."
        level = Level.PROBLEM if has_worker else Level.WARNING
        return CheckResult(level, name, seen, advice)
    if left_behind:
        return CheckResult(Level.WARNING, name, f"writable, but {left_behind} can't be deleted")
    return CheckResult(Level.OK, name, "writable")


def _write_locally(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{_PROBE}-"):
        pass


def _write_remotely(uri: str) -> str | None:
    """Write an empty file and delete it; return its URI if it could not be deleted."""
    files: Any = FlyteContextManager.current_context().file_access.get_filesystem_for_path(uri)
    probe = f"{uri.rstrip('/')}/{_PROBE}"
    files.pipe_file(probe, b"")
    with contextlib.suppress(Exception):
        files.rm_file(probe)
        return None
    return probe
