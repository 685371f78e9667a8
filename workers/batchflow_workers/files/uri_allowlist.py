"""The URIs that workers may read and write: an allow-list, because workflow authors choose URIs.

A worker can reach what an author must not: its own files, API keys under ``/etc/secrets``, the
cloud's metadata service.
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

#: Object stores that flytekit's file access supports; a worker's own credentials decide what it
#: may do there.
OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://", "abfs://", "abfss://", "az://", "adl://")

_FILE = "file://"
#: A scheme, and what follows it. To fsspec, a URI without a scheme is a local path.
_REMOTE = re.compile(r"([a-z][a-z0-9+.-]*://)(.*)", re.DOTALL)
#: What chains file systems in fsspec.
_CHAIN = "::"
#: A user and password after a scheme, or after an incomplete one, or a token alone. Azure's
#: ``abfs://container@account`` is not matched.
_LOGIN = re.compile(
    r"(?<=://)[^/@]*:[^@]*@|^[^/:@]*:/?[^/@]*@|(?<!abfs://)(?<!abfss://)(?<=://)[^/?#@]*@"
)


def allowed_uris(settings: Settings) -> tuple[str, ...]:
    """The allowed prefixes: the operator's, or by default object stores, and on a local stack also
    the temporary and the current folder."""
    if settings.allowed_uris is not None:
        return settings.allowed_uris
    if not _is_local_stack(settings):
        return OBJECT_STORES
    folders = {Path(tempfile.gettempdir()).resolve(), Path.cwd().resolve()} - {Path("/")}
    return (*OBJECT_STORES, *sorted(f"{folder}/" for folder in folders))


def check_uri(uri: str, allowed: Iterable[str]) -> None:
    """Raise InvalidInput unless the URI begins with an allowed prefix.

    A local path is compared after symbolic links and ``..`` are resolved.
    """
    if fault := _fault(uri):
        raise InvalidInput(f"The workers may not access {shown(uri)}: {fault}.")
    allowed = tuple(allowed)
    if not any(_is_within(uri, prefix) for prefix in allowed):
        raise InvalidInput(
            f"The workers may not access {shown(uri)}. It must begin with one of: "
            f"{', '.join(allowed)}. The operator sets them with BATCHFLOW_ALLOWED_URIS."
        )


def shown(uri: str) -> str:
    """A URI for messages, without a password or signature."""
    text = uri
    if local_path(uri) is None:
        text = re.split(r"[?#]", _LOGIN.sub("", uri), maxsplit=1)[0]
    return text if text.isprintable() and len(text) <= 300 else repr(text[:300])


def local_path(uri: str) -> Path | None:
    """The absolute path that a URI means on this machine, or None if it is remote."""
    path = uri.removeprefix(_FILE)
    return Path(path) if path.startswith("/") else None


def _fault(uri: str) -> str | None:
    """Why a URI is refused regardless of the allow-list, or None."""
    if any(character < " " for character in uri):
        return "it contains a control character"
    if _CHAIN in uri:
        return f"it chains file systems ('{_CHAIN}')"
    if local_path(uri) is not None:
        return None
    remote = _REMOTE.fullmatch(uri)
    if remote is None or remote[1] == _FILE:
        return "it is neither an absolute path nor a URI such as s3://bucket/key"
    if ".." in re.split(r"[/\\?#]", unquote(remote[2])):
        return "it contains '..'"
    if re.match(r"[^/@]*:[^@]*@", remote[2]):
        return "it contains a password"
    return None


def _is_within(uri: str, prefix: str) -> bool:
    path, folder = local_path(uri), local_path(prefix)
    if path is not None or folder is not None:
        if path is None or folder is None:
            return False
        # Path.resolve() raises an error for a link that points to itself.
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    return f"{uri}/".startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def _is_local_stack(settings: Settings) -> bool:
    """Whether Redis is on this machine; then the tasks are, too."""
    url = settings.require_redis_url()
    if is_sentinel(url):
        return False
    parts = urlsplit(url)
    return parts.scheme == "unix" or is_loopback(parts.hostname or "")
