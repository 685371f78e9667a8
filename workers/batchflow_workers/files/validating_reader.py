"""A reader that validates a file while it is being sent, so that neither waits for the other."""

import io
import os
from collections.abc import Callable
from typing import IO

from batchflow.requests.jsonl import JsonlValidator, ValidationMode
from batchflow_workers.files.transfer_progress import TransferProgress

#: How far the validation is ahead of the reading.
AHEAD_BYTES = 16 << 20
#: Fits into the processor's cache; larger pieces are slower.
_PIECE_BYTES = 256 << 10


class ValidatingReader(io.RawIOBase):
    """Reads ``file``, and returns its last bytes only if the whole file is valid.

    As soon as a problem is known, ``read`` raises InvalidJsonl, which lists all problems of the
    file. That aborts the request that sends the file, so OpenAI never has an invalid file.
    """

    def __init__(
        self, file: IO[bytes], validation: ValidationMode, progress: TransferProgress
    ) -> None:
        #: Called before a piece is sent, with whether it is the last. An error aborts the request.
        self.before_piece: Callable[[bool], None] = lambda _: None
        self.size_bytes = os.fstat(file.fileno()).st_size
        self._file = file
        self._validator = JsonlValidator(validation, self.size_bytes)
        self._progress = progress
        progress.expect(self.size_bytes)
        self._validated_bytes = 0
        self._is_valid = False
        self._position = 0

    def validate_ahead(self) -> None:
        """Validate as far ahead as the next read requires; raises InvalidJsonl."""
        until = self._position + AHEAD_BYTES
        while not self._is_valid and (self._validator.is_invalid or self._validated_bytes <= until):
            self._file.seek(self._validated_bytes)
            piece = self._file.read(_PIECE_BYTES)
            if piece:
                self._validator.feed(piece)
                self._validated_bytes += len(piece)
            else:
                self._finish_validation()

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        if size is None or size < 0:
            return self.readall()
        self.validate_ahead()
        self._file.seek(self._position)
        data = self._file.read(min(size, AHEAD_BYTES))
        self._move_to(self._position + len(data))
        self.before_piece(bool(data) and self._position >= self.size_bytes)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position and return it. The SDK moves to the beginning, and does so again
        after a redirect."""
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}
        self._move_to(origins[whence] + offset)
        return self._position

    def fileno(self) -> int:
        """The file's own descriptor, from which the SDK learns its length."""
        return self._file.fileno()

    def _move_to(self, position: int) -> None:
        self._progress.add(position - self._position)
        self._position = position

    def _finish_validation(self) -> None:
        summary = self._validator.finish()
        self._is_valid = True
        self._progress.write(message="Uploading the file", total=summary.lines, model=summary.model)
