"""Files in Flyte's storage: local paths and any scheme that flytekit's file access supports."""

import contextlib
import errno
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from flytekit import FlyteContextManager

from batchflow.errors import BlobUnavailable, InvalidInput
from batchflow_workers.files.uri_allowlist import local_path, shown

#: How much of a remote file is read at a time.
_BLOCK_BYTES = 4 << 20
#: Options for writing, by file system, where the default would hold hundreds of MB in memory.
_SMALL_PARTS = {
    "s3": {"chunksize": 5 << 20, "max_concurrency": 2},
    "gs": {"chunksize": 8 << 20},
}
#: The prefix of our files in the temporary folder.
_SCRATCH = "batchflow-scratch-"


@contextlib.contextmanager
def source(uri: str, max_bytes: float) -> Iterator[IO[bytes]]:
    """Open the file at ``uri`` for reading; a remote file is copied to this machine first.

    A local file is not copied, and reading it fails if it changes meanwhile. Of a remote file
    larger than ``max_bytes``, only a little more than that is copied. Raises InvalidInput if there
    is no such file, otherwise BlobUnavailable.
    """
    local = local_path(uri)
    if local is None:
        with _temporary(_SCRATCH) as copy:
            for chunk in _remote_chunks(uri):
                copy.write(chunk)
                if copy.tell() > max_bytes:
                    break
            copy.seek(0)
            yield copy
    else:
        with _open_local(uri, local) as file:
            yield file


@contextlib.contextmanager
def target(uri: str, owner: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that replaces the one at ``uri`` as a whole if the block succeeds.

    ``owner`` is the job. No other job writes there, so files that its earlier tries left behind are
    deleted. Raises BlobUnavailable.
    """
    local = local_path(uri)
    if local is None:
        with _temporary(_SCRATCH) as file:
            yield file
            file.flush()
            _put(file.name, uri)
        return
    try:
        with _part_of(local, owner) as file:
            yield file
            file.flush()
            path = Path(file.name)
            path.chmod(0o644)
            path.replace(local)
    except OSError as error:
        raise _unavailable("write", uri, error) from error


def clear_scratch(older_than_s: float) -> None:
    """Delete temporary files that killed workers left behind."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()


def _part_of(local: Path, owner: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """A file beside ``local``, so that it can replace it atomically."""
    local.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".batchflow-{owner}-"
    for left in local.parent.glob(f"{prefix}*"):
        left.unlink(missing_ok=True)
    return _temporary(prefix, local.parent)


@contextlib.contextmanager
def _temporary(prefix: str, folder: Path | None = None) -> Iterator[IO[bytes]]:
    """A file that is deleted after the block, in the temporary folder by default.

    It is opened only once: ext4 writes a truncated file to the disk when it is closed, which can
    take longer than the transfer.
    """
    with tempfile.NamedTemporaryFile(prefix=prefix, dir=folder, delete=False) as file:
        try:
            yield file.file
        finally:
            Path(file.name).unlink(missing_ok=True)


class _ImmutableFile(io.FileIO):
    """A local file, open for reading, whose ``read`` raises BlobUnavailable once it has changed.

    Comparing the length and the modification time after each read ensures that all data was in the
    file when it was opened. A new file of the same name does not matter: this one stays open.
    """

    def __init__(self, path: Path, uri: str) -> None:
        super().__init__(path)
        self._uri = uri
        self._opened_version = self._version()

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        try:
            data = super().read(size)
            version = self._version()
        except OSError as error:
            raise _unavailable("read", self._uri, error) from error
        if version != self._opened_version:
            raise BlobUnavailable(f"{shown(self._uri)} was changed while it was being read.")
        return data

    def _version(self) -> tuple[int, int]:
        status = os.fstat(self.fileno())
        return status.st_size, status.st_mtime_ns


def _open_local(uri: str, local: Path) -> _ImmutableFile:
    try:
        if not local.is_file():
            # A folder; or a pipe or device, which may never end.
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return _ImmutableFile(local, uri)
    except OSError as error:
        raise _unreadable(uri, error) from error


def _remote_chunks(uri: str) -> Iterator[bytes]:
    try:
        with _filesystem(uri).open(uri, "rb", block_size=_BLOCK_BYTES) as file:
            while chunk := file.read(_BLOCK_BYTES):
                yield chunk
    except Exception as error:
        raise _unreadable(uri, error) from error


def _put(path: str, uri: str) -> None:
    try:
        filesystem = _filesystem(uri)
        filesystem.put_file(path, uri, **_SMALL_PARTS.get(_name(filesystem), {}))
    except Exception as error:
        raise _unavailable("write", uri, error) from error


def _filesystem(uri: str) -> Any:
    return FlyteContextManager.current_context().file_access.get_filesystem_for_path(uri)


def _name(filesystem: Any) -> str:
    """The first name of a file system, such as s3 for s3 and s3a."""
    protocol = filesystem.protocol
    return str(protocol if isinstance(protocol, str) else protocol[0])


def _unreadable(uri: str, error: Exception) -> InvalidInput | BlobUnavailable:
    """InvalidInput if the file does not exist; BlobUnavailable if it may become readable."""
    gone = isinstance(error, FileNotFoundError | IsADirectoryError)
    if gone or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG):
        return InvalidInput(f"There is no file {shown(uri)}.")
    return _unavailable("read", uri, error)


def _unavailable(verb: str, uri: str, error: Exception) -> BlobUnavailable:
    return BlobUnavailable(f"Can't {verb} {shown(uri)} ({type(error).__name__}).")
