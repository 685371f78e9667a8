"""Uploaded and produced files, on disk under names of the emulator's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchflow.simulator import ids
from batchflow.simulator.shelf import Shelf


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file. `filename` is only ever shown: it comes from a client and never becomes a path."""

    id: str
    organization: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: int
    expires_at: int | None
    path: Path

    def to_json(self) -> dict[str, Any]:
        """OpenAI's File object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class FileStore:
    """The files of every organization."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._shelves: dict[str, Shelf[StoredFile]] = {}

    def new_path(self) -> Path:
        """Where to write a file before it is added."""
        return self._directory / ids.new_id("content")

    def add(
        self,
        path: Path,
        *,
        organization: str,
        filename: str,
        purpose: str,
        now: float,
        expires_after_s: int | None = None,
    ) -> StoredFile:
        """Take over a file that was written to `new_path()`."""
        stored = StoredFile(
            id=ids.file_id(),
            organization=organization,
            filename=filename,
            purpose=purpose,
            size_bytes=path.stat().st_size,
            created_at=int(now),
            expires_at=None if expires_after_s is None else int(now) + expires_after_s,
            path=path,
        )
        self.of(organization).add(stored)
        return stored

    def of(self, organization: str) -> Shelf[StoredFile]:
        """The files that this organization sees."""
        return self._shelves.setdefault(organization, Shelf())

    def everything(self) -> list[StoredFile]:
        """The files of all organizations."""
        return [stored for shelf in self._shelves.values() for stored in shelf]

    def remove(self, stored: StoredFile) -> None:
        """Delete a file and its content."""
        self.of(stored.organization).remove(stored.id)
        stored.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything."""
        for stored in self.everything():
            stored.path.unlink(missing_ok=True)
        self._shelves.clear()
