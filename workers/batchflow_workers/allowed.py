"""Which URIs a worker reads and writes: an allow-list, since a workflow's author chooses them.

A worker can reach what an author must not: its own files, API keys under ``/etc/secrets``, the
cloud's metadata service. So only what is on the list is touched.
"""

import tempfile
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

from batchflow.errors import InvalidInput
from batchflow.redis_url import is_sentinel
from batchflow.settings import Settings

#: Object stores that flytekit's file access knows; what a worker may do there, its own
#: credentials decide.
OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://", "abfs://", "abfss://", "az://", "adl://")

_LOCAL_SCHEMES = ("", "file")


def allowed_uris(settings: Settings) -> tuple[str, ...]:
    """The list in force: the operator's, or object stores, and on a local stack the temporary
    and the current folder, too."""
    if settings.allowed_uris is not None:
        return settings.allowed_uris
    if not _is_local_stack(settings):
        return OBJECT_STORES
    folders = {Path(tempfile.gettempdir()).resolve(), Path.cwd().resolve()} - {Path("/")}
    return (*OBJECT_STORES, *sorted(f"{folder}/" for folder in folders))


def check_uri(uri: str, allowed: Iterable[str]) -> None:
    """Raise InvalidInput unless the URI begins with one of those that are allowed.

    A local path counts as what it really is: without symbolic links and ``..``.
    """
    if any(_is_within(uri, prefix) for prefix in allowed):
        return
    raise InvalidInput(
        f"The workers may not touch {shown(uri)}. It has to begin with one of: "
        f"{', '.join(allowed)}. The operator sets them with BATCHFLOW_ALLOWED_URIS."
    )


def shown(uri: str) -> str:
    """A URI for people: without the password or signature that it may carry."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "a URI that can't be read"
    host = parts.netloc.rpartition("@")[2]
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path
    return text if text.isprintable() and len(text) <= 300 else repr(text[:300])


def local_path(uri: str) -> Path | None:
    """The path that a URI means on this machine, or None if it means another place."""
    if urlsplit(uri).scheme not in _LOCAL_SCHEMES:
        return None
    return Path(uri.removeprefix("file://"))


def _is_within(uri: str, prefix: str) -> bool:
    try:
        wanted, root = urlsplit(uri), urlsplit(prefix)
    except ValueError:
        return False
    if "\0" in uri:
        return False
    if root.scheme in _LOCAL_SCHEMES:
        path, folder = local_path(uri), local_path(prefix)
        if path is None or folder is None or not path.is_absolute():
            return False
        return path.resolve().is_relative_to(folder.resolve())
    if wanted.scheme.lower() != root.scheme.lower() or ".." in unquote(wanted.path).split("/"):
        return False
    if not root.netloc:
        return True
    inside = wanted.path == root.path or wanted.path.startswith(root.path.rstrip("/") + "/")
    return wanted.netloc.lower() == root.netloc.lower() and inside


def _is_local_stack(settings: Settings) -> bool:
    """Whether Redis is on this machine: then so are the tasks that wait for it."""
    url = settings.require_redis_url()
    if is_sentinel(url):
        return False
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
