"""Uploaded files and result files, stored under generated names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchflow.simulator.engine import ids
from batchflow.simulator.engine.paged_collection import Collections


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file. `filename` comes from the client and is never used as a path."""

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


class FileStore(Collections[StoredFile]):
    """The files of every organization."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def new_path(self) -> Path:
        """Return a path to write a file to before `add`."""
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
        """Add a file that was written to `new_path()`."""
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

    def remove(self, stored: StoredFile) -> None:
        """Delete a file and its content."""
        self.of(stored.organization).remove(stored.id)
        stored.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all files and their contents."""
        for stored in self.all():
            stored.path.unlink(missing_ok=True)
        super().clear()
