"""Files where Flyte keeps them: any scheme that flytekit's file access knows."""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flytekit import FlyteContextManager

from batchflow.errors import BlobUnavailable, InvalidInput
from batchflow_workers.allowed import local_path, shown

_CHUNK_BYTES = 4 << 20
#: Begins the names of our files in the temporary folder.
_SCRATCH = "batchflow-scratch-"


def read_chunks(uri: str) -> Iterator[bytes]:
    """The bytes of a file; raises InvalidInput when it isn't there, else BlobUnavailable."""
    try:
        with _open(uri) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except Exception as error:
        if _is_missing(error):
            raise InvalidInput(f"There is no file {shown(uri)}.") from error
        raise _unavailable("read", uri, error) from error


def publish(path: Path, uri: str) -> None:
    """Put a local file at ``uri``: whole, or not at all. What was there is replaced."""
    try:
        local = local_path(uri)
        if local is None:
            _filesystem(uri).put_file(str(path), uri)
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=local.parent, prefix=".batchflow-", delete=False
        ) as part:
            try:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, part, _CHUNK_BYTES)
                part.flush()
                Path(part.name).chmod(0o644)
                Path(part.name).replace(local)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except Exception as error:
        raise _unavailable("write", uri, error) from error


def clear_scratch(older_than_s: float) -> None:
    """Delete what workers that were killed have left."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()


@contextlib.contextmanager
def scratch_file() -> Iterator[Path]:
    """A local file for the time of a block."""
    handle, name = tempfile.mkstemp(prefix=_SCRATCH)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _open(uri: str) -> Any:
    local = local_path(uri)
    if local is not None and not local.is_file():
        # A folder; or a pipe or device, from which reading might never end.
        raise FileNotFoundError(errno.ENOENT, "no regular file")
    return _filesystem(uri).open(uri, "rb")


def _filesystem(uri: str) -> Any:
    return FlyteContextManager.current_context().file_access.get_filesystem_for_path(uri)


def _is_missing(error: Exception) -> bool:
    """Whether there is no such file, and never will be."""
    gone = isinstance(error, FileNotFoundError | IsADirectoryError)
    return gone or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG)


def _unavailable(verb: str, uri: str, error: Exception) -> BlobUnavailable:
    return BlobUnavailable(f"Can't {verb} {shown(uri)} ({type(error).__name__}).")
