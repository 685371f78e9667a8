"""A file that is checked first and sent after: what is sent must be what was checked."""

import io
import os
from pathlib import Path

from batchflow.errors import BlobUnavailable
from batchflow_workers.files.uri_allowlist import shown


class ImmutableFile(io.FileIO):
    """A local file, open for reading, that ends in BlobUnavailable once somebody has written to it.

    Each reading looks at the file's length and time after it: so nothing is handed out that was
    not there when the file was opened, and a request that sends it breaks off before its end.
    Another file under the same name changes nothing: this one stays open.
    """

    def __init__(self, path: Path, uri: str) -> None:
        super().__init__(path)
        self._uri = uri
        self._opened_as = self._version()

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to so many bytes; none at the end."""
        try:
            data = super().read(size)
            now = self._version()
        except OSError as error:
            raise BlobUnavailable(
                f"Can't read {shown(self._uri)} ({type(error).__name__})."
            ) from error
        if now != self._opened_as:
            raise BlobUnavailable(f"{shown(self._uri)} was changed while it was being read.")
        return data

    def _version(self) -> tuple[int, int]:
        status = os.fstat(self.fileno())
        return status.st_size, status.st_mtime_ns
