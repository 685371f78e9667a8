"""Bad files and URIs: the task fails with a clear message, and nothing reaches OpenAI."""

import base64
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batchflow_workers.files.uri_allowlist import allowed_uris, check_uri

from batchflow.errors import InvalidInput
from batchflow.requests.jsonl import MAX_BYTES, MAX_LINES
from batchflow.settings import Settings
from tests.kit.bad_input import (
    DOWNLOAD,
    PASSWORD,
    UPLOAD,
    Task,
    TaskRunner,
    blob,
    is_clear,
    packed,
    running_tasks,
)
from tests.kit.workers import lines

PROBLEM = "The input file has 1 problem; nothing was uploaded.\n"
PROBLEMS = "The input file has {} problems; nothing was uploaded.\n"
MAY_NOT = "The workers may not access "
ELSEWHERE = ". It must begin with one of: s3://"
CHAINED = ": it chains file systems ('::')."
NOT_A_URI = ": it is neither an absolute path nor a URI such as s3://bucket/key."


@pytest.fixture(scope="module")
def tasks(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskRunner]:
    with running_tasks(redis_url, tmp_path_factory.mktemp("valid")) as tasks:
        yield tasks


def upload(uri: Path | str) -> Task:
    return Task(UPLOAD, {"jsonl_in": blob(str(uri))})


def download_to(uri: str) -> Task:
    batch = {"output_file_id": "file-1", "error_file_id": "file-2"}
    return Task(DOWNLOAD, {"batch_endpoint_result": packed(batch)}, output_prefix=uri)


LINE = lines(1)

#: Files that are not valid: content, and the message as a regular expression. The unit tests of the
#: validation have all problems; these are the ones that could also break what transports them.
CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", f"{PROBLEM}the file is empty"),
    "not JSON": (
        LINE + b"hello\n",
        rf"{PROBLEM}line 2: not valid JSON: .+ \(column 1, at 'hello'\)",
    ),
    "control characters": (
        b"\x1b[2J" + LINE,
        rf"{PROBLEM}line 1: not valid JSON: .+ \(column 1, at '\\x1b\[2J.+'\)",
    ),
    "NUL": (LINE + b'{"a": "\0"}\n', rf"{PROBLEM}line 2: not valid JSON: .+'\\x00\"}}'\)"),
    "nested deeply": (
        b'{"custom_id": ' + b"[" * 100_000 + b"\n",
        f"{PROBLEM}line 1: not valid JSON: .+",
    ),
    "not UTF-8": (b'{"a": "caf\xe9"}\n', f"{PROBLEM}line 1: not UTF-8: byte 0xe9 at byte 11"),
    "a repeated custom_id": (
        LINE + LINE,
        f"{PROBLEM}line 2: custom_id '0' was already used on line 1",
    ),
    "a host in the url": (
        LINE.replace(b"/v1/chat", b"http://169.254.169.254"),
        f"{PROBLEM}line 1: url 'http://169.254.169.254/completions' is not a path .+",
    ),
    "10,000 problems": (
        b"x\n" * 10_000,
        f"{PROBLEMS.format('10,000')}(.+\n)+... and 9,900 more problems",
    ),
    "too many requests": (
        lines(MAX_LINES + 1),
        f"{PROBLEM}the file has 50,001 requests; OpenAI's limit is 50,000, .+",
    ),
}


def test_files_that_are_not_valid(tasks: TaskRunner, tmp_path: Path) -> None:
    uploads = {}
    for number, (name, (content, _)) in enumerate(CONTENTS.items()):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(content)
        uploads[name] = upload(path)
    messages = tasks.failures(uploads, by_worker=True)
    wrong = {
        name: messages[name]
        for name, (_, expected) in CONTENTS.items()
        if not re.fullmatch(expected, messages[name])
    }
    assert not wrong


def test_a_file_that_is_too_large(tasks: TaskRunner, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    blank_line = b" " * ((1 << 20) - 1) + b"\n"
    with path.open("wb") as file:
        file.writelines(blank_line for _ in range(MAX_BYTES // len(blank_line) + 1))
    message = tasks.failure(upload(path), by_worker=True)
    reason = "the file is larger than OpenAI's limit of 200 MB (209,715,200 bytes)"
    assert message == f"{PROBLEM}{reason}"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


#: Something else than a file at the file's path.
NOT_FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "a link to nothing": lambda path: path.symlink_to(path.parent / "gone"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.timeout(60, method="signal")  # a worker that opens a pipe waits for ever
def test_paths_that_are_not_files(
    tasks: TaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is limited to 107 bytes
    paths = {name: tmp_path / name for name in NOT_FILES}
    for name, make in NOT_FILES.items():
        make(Path(name))
    uploads = {name: upload(path) for name, path in paths.items()}
    messages = tasks.failures(uploads, by_worker=True)
    assert messages == {name: f"There is no file {path}." for name, path in paths.items()}


def test_names_of_no_file(
    tasks: TaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINE)
    names = ("x" * 300, "in.jsonl/in.jsonl", "%2e%2e/in.jsonl", "~/in.jsonl")
    uploads = {name: upload(f"{tmp_path}/{name}") for name in names}
    messages = tasks.failures(uploads, by_worker=True)
    assert all(
        message.startswith(("There is no file /", "There is no file '/"))
        for message in messages.values()
    )

    monkeypatch.chdir(tmp_path)
    relative = ("no.jsonl", "~/in.jsonl", "./12:30.jsonl", "\u202ein.jsonl")
    messages = tasks.failures({name: upload(name) for name in relative}, by_worker=True)
    for name, message in messages.items():
        path = str(tmp_path / name)
        assert message == f"There is no file {path if path.isprintable() else repr(path)}."


SIGNATURE = "X-Amz-Signature=hunter2hunter2"

#: URIs that are refused for inputs and outputs: the URI, the URI as the message shows it, if that
#: differs, and the reason. ``tests/unit/test_uri_allowlist.py`` has more.
URIS: dict[str, tuple[str, str, str]] = {
    "the worker's password file": ("file:///etc/passwd", "", ELSEWHERE),
    "the worker's secrets": ("/etc/secrets/openai/key", "", ELSEWHERE),
    "the root": ("/", "", ELSEWHERE),
    "a way out": ("/tmp/../etc/passwd", "", ELSEWHERE),
    "file with a host": ("file://host/etc/passwd", "", NOT_A_URI),
    "fsspec's local": ("local:///etc/passwd", "", ELSEWHERE),
    "the cloud's metadata": ("http://169.254.169.254/latest/meta-data/iam/", "", ELSEWHERE),
    "the machine itself": ("http://localhost:6379/", "", ELSEWHERE),
    "IPv6": ("http://[::1]:6379/", "http://[::1]:6379/", CHAINED),
    "a broken host": ("http://[1:1/x", "", ELSEWHERE),
    "Redis": ("redis://localhost:6379/0", "", ELSEWHERE),
    "github": ("github://org:repo@main/x", "github://main/x", ": it contains a password."),
    "data": (f"data:;base64,{base64.b64encode(LINE).decode()[:40]}", "", NOT_A_URI),
    "memory": ("memory://in.jsonl", "", ELSEWHERE),
    "an archive before": ("zip://in.jsonl::s3://b/a.zip", "", CHAINED),
    "a file behind": ("s3://b::file:///etc/passwd", "", CHAINED),
    "a login behind": (
        f"filecache::https://user:{PASSWORD}@example.org/x",
        "filecache::https://example.org/x",
        CHAINED,
    ),
    "a parent": ("s3://bucket/a/../../other/in.jsonl", "", ": it contains '..'."),
    "a password": (
        f"s3://user:{PASSWORD}@bucket/in.jsonl",
        "s3://bucket/in.jsonl",
        ": it contains a password.",
    ),
    "a signature": (
        f"https://bucket.s3.amazonaws.com/in.jsonl?{SIGNATURE}",
        "https://bucket.s3.amazonaws.com/in.jsonl",
        ELSEWHERE,
    ),
    "a token": (
        f"https://{PASSWORD}@example.org/in.jsonl#{PASSWORD}",
        "https://example.org/in.jsonl",
        ELSEWHERE,
    ),
    "an escape sequence": ("s3:\u009b2J", repr("s3:\u009b2J"), NOT_A_URI),
}


@pytest.mark.parametrize("make", [upload, download_to])
def test_uris_that_workers_may_not_access(tasks: TaskRunner, make: Callable[[str], Task]) -> None:
    messages = tasks.failures(
        {name: make(uri) for name, (uri, _, _) in URIS.items()}, by_worker=True
    )
    wrong = {
        name: messages[name]
        for name, (uri, shown, reason) in URIS.items()
        if not messages[name].startswith(f"{MAY_NOT}{shown or uri}{reason}")
    }
    assert not wrong


#: Relative URIs, which an input may have in a local execution but outputs never have.
RELATIVE = {
    "a name": "in.jsonl",
    "a way out": "../" * 40 + "etc/passwd",
    "a home": "~/.aws/credentials",
    "a query": f"in.jsonl?{SIGNATURE}",
    "letters that change direction": "\u202ein.jsonl",
}


def test_relative_uris(tasks: TaskRunner) -> None:
    downloads = {name: download_to(uri) for name, uri in RELATIVE.items()}
    messages = tasks.failures(downloads, by_worker=True)
    assert all(message.endswith(NOT_A_URI) for message in messages.values())

    message = tasks.failure(upload(RELATIVE["a way out"]), by_worker=True)
    assert message.startswith(f"{MAY_NOT}/")
    assert ELSEWHERE in message


def test_links_that_lead_out_of_the_allowed_folders(tasks: TaskRunner, tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    (tmp_path / "chain").symlink_to(tmp_path / "folder")
    names = ("file", "folder/passwd", "chain/passwd", "folder/no-such-file")
    uploads = {name: upload(tmp_path / name) for name in names}
    for name, message in tasks.failures(uploads, by_worker=True).items():
        assert message.startswith(f"{MAY_NOT}{tmp_path}/{name}. It must begin with one of: ")
    message = tasks.failure(download_to(f"{tmp_path}/folder/0"), by_worker=True)
    assert message.startswith(MAY_NOT)


def test_local_paths_where_the_stack_is_not_local(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    remote = allowed_uris(settings(redis_url="rediss://redis.example.org:6379/0"))
    for uri in (f"{tmp_path}/in.jsonl", f"file://{tmp_path}/in.jsonl", "/in.jsonl"):
        with pytest.raises(InvalidInput, match="It must begin with one of: s3://") as caught:
            check_uri(uri, remote)
        assert is_clear(str(caught.value))


def test_only_the_valid_tasks_have_reached_openai(tasks: TaskRunner) -> None:
    stats = tasks.stats()
    assert stats["batches_created"] == 0
    assert set(stats["calls"]) == {"files.create"}
    assert {file["bytes"] for file in tasks.workers.uploads()} == {len(lines())}
    assert len(tasks.workers.uploads()) == stats["files_uploaded"]
