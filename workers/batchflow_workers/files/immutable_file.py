"""A local file that must not change between its validation and its upload."""

import io
import os
from pathlib import Path

from batchflow.errors import BlobUnavailable
from batchflow_workers.files.uri_allowlist import shown


class ImmutableFile(io.FileIO):
    """A local file, open for reading, whose ``read`` raises BlobUnavailable once it has changed.

    The length and the modification time are compared after each read, so that no content is handed
    out that was not there when the file was opened. A new file under the same name does not matter:
    this one stays open.
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
            raise BlobUnavailable(
                f"Can't read {shown(self._uri)} ({type(error).__name__})."
            ) from error
        if version != self._opened_version:
            raise BlobUnavailable(f"{shown(self._uri)} was changed while it was being read.")
        return data

    def _version(self) -> tuple[int, int]:
        status = os.fstat(self.fileno())
        return status.st_size, status.st_mtime_ns
