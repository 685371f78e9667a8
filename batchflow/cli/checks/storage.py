"""Files: whether the places that workers may touch can be written from here."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from batchflow_workers.files.uri_allowlist import allowed_uris, local_path, shown
from flytekit import FlyteContextManager

from batchflow.cli.checks.check import CheckContext, CheckResult, Level, in_thread
from batchflow.overview.health import worker_is_alive
from batchflow.queue import Queue
from batchflow.store import heartbeats, records

#: What is written for a moment. Always the same name: at most one can ever be left behind.
_PROBE: Final = ".batchflow-doctor"
_ADVICE: Final = "The workers on the files queue have to read and write there."


async def places(look: CheckContext) -> Iterable[CheckResult]:
    """Try each allowed place. What goes wrong is a problem on a machine whose worker moves files,
    and on others a warning."""
    here = await _moves_files_here(look)
    allowed = allowed_uris(look.settings)
    open_ended = [uri for uri in allowed if local_path(uri) is None and uri.endswith("://")]
    tried = await asyncio.gather(
        *(_try(uri, here=here) for uri in allowed if uri not in open_ended)
    )
    if not open_ended:
        return tried
    seen = f"every bucket is allowed ({', '.join(open_ended)}), so none was tried"
    advice = "Name the buckets in BATCHFLOW_ALLOWED_URIS, and this command tries them."
    return [CheckResult(Level.NOTE, "object stores", seen, advice), *tried]


async def _moves_files_here(look: CheckContext) -> bool:
    now_s = await look.store.run(records.time())
    host = socket.gethostname()
    return any(
        worker_is_alive(worker.seen_s, now_s)
        and Queue.FILES in worker.queues
        and worker.name.endswith(f"@{host}")
        for worker in await look.store.run(heartbeats.workers())
    )


async def _try(uri: str, *, here: bool) -> CheckResult:
    name = shown(uri)
    local = local_path(uri)
    write = partial(_write_locally, local) if local else partial(_write_remotely, uri)
    try:
        left = await in_thread(write)
    except Exception as error:  # noqa: BLE001 - each kind of storage has its own errors
        level = Level.PROBLEM if here else Level.WARNING
        # Not the error's words: they may hold a signature.
        seen = f"can't be written from here ({type(error).__name__})"
        return CheckResult(level, name, seen, _ADVICE)
    if left:
        return CheckResult(Level.WARNING, name, f"can be written; {left} could not be deleted")
    return CheckResult(Level.OK, name, "can be written")


def _write_locally(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{_PROBE}-"):
        pass


def _write_remotely(uri: str) -> str | None:
    """Write an empty file and delete it; returns it if it had to be left."""
    files: Any = FlyteContextManager.current_context().file_access.get_filesystem_for_path(uri)
    probe = f"{uri.rstrip('/')}/{_PROBE}"
    files.pipe_file(probe, b"")
    with contextlib.suppress(Exception):
        files.rm_file(probe)
        return None
    return probe
