"""A file that is checked while it is sent: read once, and what is sent is what was checked."""

import io
import os
from collections import deque
from typing import IO, TYPE_CHECKING

from batchflow.jsonl import JsonlValidator, Validation
from batchflow_workers.progress import Progress

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: How far the check stays ahead of the sending.
AHEAD_BYTES = 8 << 20
#: Fits into the processor's cache; larger pieces are slower.
_PIECE_BYTES = 256 << 10


class CheckedFile(io.RawIOBase):
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
        self._ahead: deque[memoryview] = deque()
        self._ahead_bytes = 0
        self._handed_out_bytes = 0
        self._position = 0
        self._checked = False

    def look_ahead(self) -> None:
        """Check what has to be good before any more is handed out. Raises InvalidJsonl."""
        while not self._checked and (self._validator.faulty or self._ahead_bytes < AHEAD_BYTES):
            piece = self._file.read(_PIECE_BYTES)
            if not piece:
                self._end_check()
                return
            self._validator.feed(piece)
            if not self._validator.faulty:
                self._ahead.append(memoryview(piece))
                self._ahead_bytes += len(piece)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill the beginning of ``buffer``; returns with how many bytes, none at the end."""
        if self._position != self._handed_out_bytes:
            raise io.UnsupportedOperation("The file is read once, from its beginning to its end.")
        self.look_ahead()
        if not self._ahead:
            return 0
        room = memoryview(buffer).cast("B")
        piece = self._ahead.popleft()
        part, rest = piece[: len(room)], piece[len(room) :]
        if rest:
            self._ahead.appendleft(rest)
        room[: len(part)] = part
        self._ahead_bytes -= len(part)
        self._handed_out_bytes += len(part)
        self._position += len(part)
        self._progress.add(len(part))
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; returns it. By going to the end, the SDK learns the length."""
        whences = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}
        self._position = whences[whence] + offset
        return self._position

    def seekable(self) -> bool:
        """Yes, though it can only be read from where it was left."""
        return True

    def readable(self) -> bool:
        """Yes."""
        return True

    def _end_check(self) -> None:
        summary = self._validator.finish()
        self._checked = True
        self._progress.tell(
            message="Sending the file to OpenAI", total=summary.lines, model=summary.model
        )
