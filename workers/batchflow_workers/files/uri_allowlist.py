"""Which URIs a worker reads and writes: an allow-list, since a workflow's author chooses them.

A worker can reach what an author must not: its own files, API keys under ``/etc/secrets``, the
cloud's metadata service. So only what is on the list is touched.
"""

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from batchflow.errors import InvalidInput
from batchflow.hosts import is_loopback
from batchflow.redis_url import is_sentinel
from batchflow.settings import Settings

#: Object stores that flytekit's file access knows; what a worker may do there, its own
#: credentials decide.
OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://", "abfs://", "abfss://", "az://", "adl://")

_FILE = "file://"
#: A scheme, and what follows it. fsspec takes what has no such beginning for a local path.
_REMOTE = re.compile(r"([a-z][a-z0-9+.-]*://)(.*)", re.DOTALL)
#: How fsspec is told to go through one file system into another.
_CHAIN = "::"
#: User and password after a scheme, whatever they are made of; the same after half a scheme; a
#: token alone. Azure's ``abfs://container@account`` is none of them.
_LOGIN = re.compile(
    r"(?<=://)[^/@]*:[^@]*@|^[^/:@]*:/?[^/@]*@|(?<!abfs://)(?<!abfss://)(?<=://)[^/?#@]*@"
)


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
    if fault := _fault(uri):
        raise InvalidInput(f"The workers may not touch {shown(uri)}: {fault}.")
    allowed = tuple(allowed)
    if not any(_is_within(uri, prefix) for prefix in allowed):
        raise InvalidInput(
            f"The workers may not touch {shown(uri)}. It has to begin with one of: "
            f"{', '.join(allowed)}. The operator sets them with BATCHFLOW_ALLOWED_URIS."
        )


def shown(uri: str) -> str:
    """A URI for people: without the password or signature that it may carry."""
    text = uri
    if local_path(uri) is None:
        text = re.split(r"[?#]", _LOGIN.sub("", uri), maxsplit=1)[0]
    return text if text.isprintable() and len(text) <= 300 else repr(text[:300])


def local_path(uri: str) -> Path | None:
    """The absolute path that a URI means on this machine, or None if it means another place."""
    path = uri.removeprefix(_FILE)
    return Path(path) if path.startswith("/") else None


def _fault(uri: str) -> str | None:
    """Why a URI is refused whatever is allowed, if it is."""
    if any(character < " " for character in uri):
        return "it has a control character in it"
    if _CHAIN in uri:
        return f"it leads through one file system into another ('{_CHAIN}')"
    if local_path(uri) is not None:
        return None
    remote = _REMOTE.fullmatch(uri)
    if remote is None or remote[1] == _FILE:
        return "it is neither an absolute path nor a URI such as s3://bucket/key"
    if ".." in re.split(r"[/\\?#]", unquote(remote[2])):
        return "it has '..' in it"
    if re.match(r"[^/@]*:[^@]*@", remote[2]):
        return "it has a password in it"
    return None


def _is_within(uri: str, prefix: str) -> bool:
    path, folder = local_path(uri), local_path(prefix)
    if path is not None or folder is not None:
        if path is None or folder is None:
            return False
        # Not Path.resolve(), which breaks on a link that leads to itself.
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    return f"{uri}/".startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def _is_local_stack(settings: Settings) -> bool:
    """Whether Redis is on this machine: then so are the tasks that wait for it."""
    url = settings.require_redis_url()
    if is_sentinel(url):
        return False
    parts = urlsplit(url)
    return parts.scheme == "unix" or is_loopback(parts.hostname or "")
