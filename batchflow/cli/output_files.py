"""The files that a run leaves behind."""

import os
import shutil
import tempfile
from pathlib import Path


def keep(source: Path | None, target: Path) -> Path | None:
    """Put a file in its place, whole or not at all; without a source, remove an old one."""
    if source is None:
        target.unlink(missing_ok=True)
        return None
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as part:
        try:
            with source.open("rb") as content:
                shutil.copyfileobj(content, part)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).chmod(0o666 & ~_umask())
            Path(part.name).replace(target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
