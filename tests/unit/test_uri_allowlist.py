"""Which URIs a worker touches: the rule alone, without a worker."""

import os
import tempfile
from pathlib import Path

import pytest
from batchflow_workers.files.uri_allowlist import (
    OBJECT_STORES,
    allowed_uris,
    check_uri,
    local_path,
    shown,
)

from batchflow.errors import InvalidInput
from batchflow.settings import Settings

LOCAL_REDIS = "redis://127.0.0.1:6379/0"
REMOTE_REDIS = "redis://redis.internal:6379/0"

#: Refused whatever is allowed: the URI, and what is said of it.
NEVER: dict[str, tuple[str, str]] = {
    "nothing": ("", "neither an absolute path nor a URI"),
    "relative": ("data/in.jsonl", "neither an absolute path nor a URI"),
    "home": ("~/in.jsonl", "neither an absolute path nor a URI"),
    "a scheme without slashes": ("s3:bucket/in.jsonl", "neither an absolute path nor a URI"),
    "a scheme with one slash": ("s3:/bucket/in.jsonl", "neither an absolute path nor a URI"),
    "an uppercase scheme": ("S3://bucket/in.jsonl", "neither an absolute path nor a URI"),
    "a space before": (" s3://bucket/in.jsonl", "neither an absolute path nor a URI"),
    "file with a host": ("file://host/etc/passwd", "neither an absolute path nor a URI"),
    "file with localhost": ("file://localhost/etc/passwd", "neither an absolute path nor a URI"),
    "javascript": ("javascript:alert(1)", "neither an absolute path nor a URI"),
    "file without slashes": ("file:/etc/passwd", "neither an absolute path nor a URI"),
    "an uppercase file": ("FILE:///etc/passwd", "neither an absolute path nor a URI"),
    "data": ("data:text/plain;base64,e30=", "neither an absolute path nor a URI"),
    "a newline": ("s3://bucket/in\n.jsonl", "a control character"),
    "a newline in front": ("\ns3://bucket/in.jsonl", "a control character"),
    "NUL": ("/tmp/in\0.jsonl", "a control character"),
    "chained": ("simplecache::s3://bucket/in.jsonl", "('::')"),
    "chained behind": ("s3://bucket::file:///etc/passwd", "('::')"),
    "chained without a path": ("s3::file:///etc/passwd", "('::')"),
    "chained on a path": ("/tmp/a::file:///etc/passwd", "('::')"),
    "parent": ("s3://bucket/a/../b", "it contains '..'"),
    "parent at the end": ("s3://bucket/a/..", "it contains '..'"),
    "parent of a bucket": ("s3://../bucket", "it contains '..'"),
    "parent, encoded": ("s3://bucket/a/%2e%2E/b", "it contains '..'"),
    "parent and slash, encoded": ("https://example.org/a%2f..%2fb", "it contains '..'"),
    "parent behind a backslash": ("https://example.org/a\\..\\b", "it contains '..'"),
    "parent behind a fragment": ("s3://bucket/a#/../b", "it contains '..'"),
    "parent behind a query": ("s3://bucket/a?/../b", "it contains '..'"),
    "a password": ("s3://user:hunter2@bucket/in.jsonl", "it contains a password"),
    "a password with a slash": ("s3://user:hunt/er2@bucket/in.jsonl", "it contains a password"),
}


@pytest.mark.parametrize(("uri", "sentence"), NEVER.values(), ids=NEVER)
def test_some_uris_are_refused_whatever_is_allowed(uri: str, sentence: str) -> None:
    everything = (*OBJECT_STORES, "https://", "file://", "data:", "/", "s3://bucket", uri or "x")
    with pytest.raises(InvalidInput) as caught:
        check_uri(uri, everything)
    message = str(caught.value)
    assert sentence in message
    assert message.endswith(".")
    assert "\n" not in message
    assert "hunt" not in message


#: An allow-list, a URI, and whether the list allows it.
PREFIXES: list[tuple[str, str, bool]] = [
    ("s3://", "s3://bucket/in.jsonl", True),
    ("s3://", "s3://bucket/%20/a..b/...", True),
    ("s3://", "s3a://bucket/in.jsonl", False),
    ("s3://", "gs://bucket/in.jsonl", False),
    ("abfs://", "abfs://container@account.dfs.core.windows.net/in.jsonl", True),
    ("s3://bucket", "s3://bucket", True),
    ("s3://bucket", "s3://bucket/in.jsonl", True),
    ("s3://bucket", "s3://bucket-other/in.jsonl", False),
    ("s3://bucket", "s3://bucket@other/in.jsonl", False),
    ("s3://bucket", "s3://bucket.other/in.jsonl", False),
    ("s3://bucket", "s3://bucket?x/in.jsonl", False),
    ("s3://bucket", "s3://bucket#x/in.jsonl", False),
    ("s3://bucket", "s3://Bucket/in.jsonl", False),
    ("s3://bucket", "s3://other/s3://bucket/in.jsonl", False),
    ("s3://bucket/", "s3://bucket", True),
    ("s3://bucket/", "s3://bucket-other/in.jsonl", False),
    ("s3://bucket/team", "s3://bucket/team/in.jsonl", True),
    ("s3://bucket/team", "s3://bucket/team2/in.jsonl", False),
    ("s3://bucket/team/", "s3://bucket/team", True),
    ("s3://bucket/team/", "s3://bucket/in.jsonl", False),
    ("https://files.example.org/", "https://files.example.org/in.jsonl?signature=1", True),
    ("https://files.example.org", "https://files.example.org.evil.org/in.jsonl", False),
    ("https://files.example.org", "https://files.example.org@evil.org/in.jsonl", False),
    ("https://files.example.org", "https://files.example.org:8443/in.jsonl", False),
    ("https://files.example.org", "https://files.example.org\\@evil.org/in.jsonl", False),
    ("https://files.example.org/", "http://files.example.org/in.jsonl", False),
    ("/data", "/data/in.jsonl", True),
    ("/data", "/data", True),
    ("/data/", "file:///data/in.jsonl", True),
    ("file:///data/", "/data/in.jsonl", True),
    ("/data", "/data-other/in.jsonl", False),
    ("/data", "/data/../etc/passwd", False),
    ("/data", "/data/a/../in.jsonl", True),
    ("/data", "s3://data/in.jsonl", False),
    ("/data", "http://169.254.169.254/data", False),
    ("s3://", "/etc/passwd", False),
    ("s3://", "//etc/passwd", False),
    ("s3://", "/proc/self/environ", False),
    ("s3://", "/dev/stdin", False),
    ("s3://", "http://2852039166/latest/", False),
    ("s3://", "sftp://example.org/in.jsonl", False),
    ("s3://", "file:///etc/passwd", False),
    ("s3://", "http://169.254.169.254/latest/meta-data/", False),
    ("s3://", "memory://in.jsonl", False),
    ("s3://", "ftp://example.org/in.jsonl", False),
    ("data", "data/in.jsonl", False),
    ("file://", "/etc/passwd", False),
]


@pytest.mark.parametrize(("prefix", "uri", "within"), PREFIXES)
def test_a_prefix_ends_where_a_name_ends(prefix: str, uri: str, within: bool) -> None:
    allowed = (prefix,)
    if within:
        check_uri(uri, allowed)
        return
    with pytest.raises(InvalidInput, match="The workers may not access "):
        check_uri(uri, allowed)


def test_nothing_is_within_an_empty_list() -> None:
    with pytest.raises(InvalidInput):
        check_uri("s3://bucket/in.jsonl", ())


def test_the_sentence_names_what_is_allowed_and_who_sets_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_uri("https://example.org/in.jsonl?signature=abc", iter(["s3://a/", "/data/"]))
    assert str(caught.value) == (
        "The workers may not access https://example.org/in.jsonl. It must begin with one of: "
        "s3://a/, /data/. The operator sets them with BATCHFLOW_ALLOWED_URIS."
    )


# Symbolic links


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "in.jsonl").touch()
    (inside / "file").symlink_to(outside / "in.jsonl")
    (inside / "folder").symlink_to(outside)
    (inside / "own").symlink_to(inside / "in.jsonl")
    (inside / "gone").symlink_to(outside / "not-yet")
    (inside / "loop").symlink_to(inside / "loop")
    allowed = (f"{inside}/",)

    for name in ("own", "in.jsonl", "new/in.jsonl", "loop", "loop/in.jsonl", "x" * 5_000):
        check_uri(f"{inside}/{name}", allowed)
    for name in ("file", "folder/in.jsonl", "folder/new", "gone", "../outside/in.jsonl"):
        with pytest.raises(InvalidInput):
            check_uri(f"{inside}/{name}", allowed)
        with pytest.raises(InvalidInput):
            check_uri(f"file://{inside}/{name}", allowed)


def test_an_allowed_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_uri(f"{tmp_path}/real/in.jsonl", (f"{tmp_path}/link/",))
    check_uri(f"{tmp_path}/link/in.jsonl", (f"{tmp_path}/real",))


# The list in force


def settings(redis_url: str, allowed: object = None) -> Settings:
    return Settings.model_validate({"redis_url": redis_url, "allowed_uris": allowed})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket/", ("s3://bucket/",)),
        ("s3://a/, /data/ ,gs://b", ("s3://a/", "/data/", "gs://b")),
        (" , ,", ()),
        ("", ()),
        (("s3://a,b/",), ("s3://a,b/",)),
    ],
)
@pytest.mark.parametrize("redis_url", [LOCAL_REDIS, REMOTE_REDIS])
def test_the_operators_list_replaces_the_defaults(
    redis_url: str, given: object, expected: tuple[str, ...]
) -> None:
    assert allowed_uris(settings(redis_url, given)) == expected


@pytest.mark.parametrize(
    "redis_url",
    [LOCAL_REDIS, "redis://localhost/1", "rediss://[::1]:6380", "unix:///run/redis.sock"],
)
def test_a_local_stack_reads_the_temporary_and_the_current_folder(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    allowed = allowed_uris(settings(redis_url))
    assert allowed[: len(OBJECT_STORES)] == OBJECT_STORES
    for folder in (tempfile.gettempdir(), os.fspath(tmp_path)):
        check_uri(f"{folder}/in.jsonl", allowed)
    for uri in ("/etc/passwd", "/etc/secrets/group/key", "/proc/self/environ"):
        with pytest.raises(InvalidInput):
            check_uri(uri, allowed)


def test_the_root_is_no_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert "/" not in allowed_uris(settings(LOCAL_REDIS))


@pytest.mark.parametrize(
    "redis_url",
    [
        REMOTE_REDIS,
        "rediss://10.0.0.7:6379",
        "redis://localhost.example.org:6379",
        "sentinel://localhost:26379/main/0",
    ],
)
def test_on_another_stack_local_paths_are_refused(redis_url: str, tmp_path: Path) -> None:
    allowed = allowed_uris(settings(redis_url))
    assert allowed == OBJECT_STORES
    for uri in (f"{tmp_path}/in.jsonl", f"file://{tmp_path}/in.jsonl"):
        with pytest.raises(InvalidInput, match="It must begin with one of: s3://, "):
            check_uri(uri, allowed)


# For people


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("s3://bucket/in.jsonl", "s3://bucket/in.jsonl"),
        ("/data/a#1?b@c:d.jsonl", "/data/a#1?b@c:d.jsonl"),
        ("https://example.org/in.jsonl?signature=abc", "https://example.org/in.jsonl"),
        ("https://example.org/in.jsonl#token=abc", "https://example.org/in.jsonl"),
        ("https://user:word@example.org/in.jsonl", "https://example.org/in.jsonl"),
        ("https://user:wo/r?d@example.org/in.jsonl", "https://example.org/in.jsonl"),
        ("https://token@example.org/in.jsonl", "https://example.org/in.jsonl"),
        ("https:/user:word@example.org/in.jsonl", "example.org/in.jsonl"),
        ("zip::https://user:word@example.org/in.jsonl", "zip::https://example.org/in.jsonl"),
        ("s3://bucket/a:b@c.jsonl", "s3://bucket/a:b@c.jsonl"),
        ("abfs://container@account/in.jsonl", "abfs://container@account/in.jsonl"),
        ("http://[::1", "http://[::1"),
        ("/data/\x1b[31m", "'/data/\\x1b[31m'"),
        ("s3://" + "x" * 400, repr("s3://" + "x" * 295)),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str, text: str) -> None:
    assert shown(uri) == text


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/data/in.jsonl", "/data/in.jsonl"),
        ("file:///data/in.jsonl", "/data/in.jsonl"),
        ("file://host/in.jsonl", None),
        ("in.jsonl", None),
        ("s3:/in.jsonl", None),
        ("s3://bucket/in.jsonl", None),
    ],
)
def test_only_absolute_paths_are_local(uri: str, path: str | None) -> None:
    assert local_path(uri) == (None if path is None else Path(path))
