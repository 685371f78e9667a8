"""A file that is checked while it is sent, so that neither waits for the other."""

import io
import os
from typing import IO

from batchflow.requests.jsonl import JsonlValidator, Validation
from batchflow_workers.files.transfer_progress import Progress

#: How far the check is ahead of the sending.
AHEAD_BYTES = 16 << 20
#: Fits into the processor's cache; larger pieces are slower.
_PIECE_BYTES = 256 << 10


class ValidatingReader(io.RawIOBase):
    """The bytes of ``file``, the last of which are handed out when all of it was found good.

    A reading raises InvalidJsonl, with all that is wrong with the file, once anything is found: so
    a request that sends it breaks off before its end, and OpenAI never has the file.
    """

    def __init__(self, file: IO[bytes], validation: Validation, progress: Progress) -> None:
        self.size_bytes = os.fstat(file.fileno()).st_size
        self._file = file
        self._validator = JsonlValidator(validation, self.size_bytes)
        self._progress = progress
        progress.expect(self.size_bytes)
        self._checked_bytes = 0
        self._is_good = False
        self._position = 0

    def look_ahead(self) -> None:
        """Check what has to be good before any more is handed out. Raises InvalidJsonl."""
        until = self._position + AHEAD_BYTES
        while not self._is_good and (self._validator.faulty or self._checked_bytes <= until):
            self._file.seek(self._checked_bytes)
            piece = self._file.read(_PIECE_BYTES)
            if piece:
                self._validator.feed(piece)
                self._checked_bytes += len(piece)
            else:
                self._end_check()

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to so many bytes; none at the end."""
        if size is None or size < 0:
            return self.readall()
        self.look_ahead()
        self._file.seek(self._position)
        data = self._file.read(min(size, AHEAD_BYTES))
        self._go_to(self._position + len(data))
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; returns it. The SDK goes to the beginning, and when it is redirected does
        so again."""
        whences = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}
        self._go_to(whences[whence] + offset)
        return self._position

    def fileno(self) -> int:
        """The file's own, which tells the SDK how long it is."""
        return self._file.fileno()

    def _go_to(self, position: int) -> None:
        self._progress.add(position - self._position)
        self._position = position

    def _end_check(self) -> None:
        summary = self._validator.finish()
        self._is_good = True
        self._progress.tell(
            message="Sending the file to OpenAI", total=summary.lines, model=summary.model
        )
