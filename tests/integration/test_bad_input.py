"""Bad input of every kind: FAILED with a sentence, nothing reaches OpenAI, nothing else stops."""

import base64
import gzip
import json
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from batchflow_workers.files.uri_allowlist import allowed_uris, check_uri
from flyteidl.core.literals_pb2 import Literal, LiteralMap

from batchflow.errors import InvalidInput
from batchflow.jobs import random_job_id
from batchflow.requests.jsonl import MAX_BYTES, MAX_EMBEDDING_INPUTS, MAX_LINES
from batchflow.settings import Settings
from tests.kit.bad_input import (
    API_KEY,
    BATCH,
    DOWNLOAD,
    PASSWORD,
    UPLOAD,
    Bench,
    Task,
    blob,
    clean,
    packed,
    running_bench,
    struct,
    text,
)
from tests.kit.steps import lines

#: What begins every message about a file's lines.
ONE = "The input file has 1 problem; nothing was uploaded."
MANY = "The input file has {} problems; nothing was uploaded."
MAY_NOT = "The workers may not access "
NO_STR = "The task's input input_file_id must be a str."
NO_DICT = "The task's input batch_endpoint_result must be a dict."
ELSEWHERE = ". It must begin with one of: s3://"
CHAINED = ": it chains file systems ('::')."
NO_URI = "it is neither an absolute path nor a URI such as s3://bucket/key."
AS_IT_IS = "The task is not valid. "
ID = "must be an id from OpenAI, such as 'file-abc123'"
SECRET = "must be the name of a secret, never the API key itself"
ORGANIZATION = "openai_organization: must be an organization's id, such as 'org-abc123'"
URI = "must be a URI of 1 to 4,096 characters, none of them a control character."


@pytest.fixture(scope="module")
def bench(redis_url: str) -> Iterator[Bench]:
    with running_bench(redis_url, f"test-{uuid4()}") as bench:
        yield bench


@pytest.fixture
def good(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A task that works."""
    path = tmp_path_factory.mktemp("good") / "in.jsonl"
    path.write_bytes(lines())
    custom = {"openai_organization": bench.steps.organization}
    return Task(UPLOAD, {"jsonl_in": blob(str(path))}, custom)


def upload(uri: str, **custom: Any) -> Task:
    return Task(UPLOAD, {"jsonl_in": blob(uri)}, custom)


def batch(file_id: Literal | str = "file-1", **custom: Any) -> Task:
    literal = text(file_id) if isinstance(file_id, str) else file_id
    return Task(BATCH, {"input_file_id": literal}, custom)


def config(**config: Any) -> Task:
    return batch(config=config)


def download(result: Literal | Mapping[str, Any], **changes: Any) -> Task:
    literal = result if isinstance(result, Literal) else packed(result)
    return Task(DOWNLOAD, {"batch_endpoint_result": literal}, **changes)


# Files


def request(custom_id: object = "a", **changes: object) -> bytes:
    """A line of a batch file; a change to ... takes the field away."""
    line = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-test", "messages": []},
    }
    kept = {name: value for name, value in (line | changes).items() if value is not ...}
    return json.dumps(kept).encode() + b"\n"


def embeddings(count: int) -> bytes:
    body = {"model": "m", "input": ["x"] * count}
    return request(url="/v1/embeddings", body=body)


GOOD_LINE = request("good")

#: The file, and the message, of which the first line follows from the number of the others.
FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["the file is empty"]),
    "blank lines": (b"\n \n\t\n", ["the file has no requests, only blank lines"]),
    "a byte order mark": (b"\xef\xbb\xbf", ["the file has no requests, only blank lines"]),
    "words": (
        GOOD_LINE + b"hello\n",
        ["line 2: not valid JSON: <fault> (column 1, at 'hello')"],
    ),
    "cut off": (
        GOOD_LINE + GOOD_LINE[:20],
        ["line 2: not valid JSON: <fault> (column 21)"],
    ),
    "NaN": (
        b'{"custom_id": NaN}\n',
        ["line 1: not valid JSON: <fault> (column 15, at 'NaN}')"],
    ),
    "a NUL byte": (
        GOOD_LINE + b'{"a": "\0"}\n',
        ["line 2: not valid JSON: <fault> "
         "(column 8, at '\\x00\"}')"],
    ),
    "an escape sequence": (
        b"\x1b[2J" + GOOD_LINE,
        ["line 1: not valid JSON: <fault> (column 1, at '\\x1b[2J{\"custom_id\": \"g')"],
    ),
    "half of a pair": (
        b'{"custom_id": "\\ud800"}\n',
        ["line 1: not valid JSON: half of a surrogate pair in a string (column 16)"],
    ),
    "nested deeply": (
        b'{"custom_id": ' + b"[" * 100_000 + b"\n",
        ["line 1: not valid JSON: <fault>"],
    ),
    "not UTF-8": (
        GOOD_LINE + b'{"custom_id": "caf\xe9"}\n',
        ["line 2: not UTF-8: byte 0xe9 at byte 19"],
    ),
    "UTF-16": (
        GOOD_LINE.decode().encode("utf-16"),
        ["the file looks like UTF-16; save the file as UTF-8"],
    ),
    "gzip": (
        gzip.compress(GOOD_LINE, mtime=0),
        ["the file is compressed with gzip; uncompress it first"],
    ),
    "an array": (
        b"[" + GOOD_LINE.strip() + b"]",
        ["the file is one JSON array; write one object per line, without brackets around them"],
    ),
    "pretty-printed": (
        json.dumps(json.loads(GOOD_LINE), indent=2).encode(),
        ["the file is pretty-printed JSON; write each request on one line"],
    ),
    "numbers": (
        b"1\ntrue\nnull\n",
        [
            "line 1: it is a number, not an object",
            "line 2: it is a boolean, not an object",
            "line 3: it is null, not an object",
        ],
    ),
    "a blank line": (GOOD_LINE + b"\n" + request("b"), ["line 2: empty line"]),
    "custom_id is missing": (GOOD_LINE + request(...), ["line 2: custom_id is missing"]),
    "an empty custom_id": (request(""), ["line 1: custom_id is empty"]),
    "a custom_id that is a number": (request(7), ["line 1: custom_id is a number, not a string"]),
    "the same custom_id": (
        GOOD_LINE + request("b") + GOOD_LINE,
        ["line 3: custom_id 'good' was already used on line 1"],
    ),
    "no method": (request(method=...), ["line 1: method must be 'POST'"]),
    "another method": (request(method="DELETE"), ["line 1: method must be 'POST'"]),
    "url is missing": (request(url=...), ["line 1: url is missing"]),
    "a url with a host": (
        request(url="http://169.254.169.254/latest"),
        ["line 1: url 'http://169.254.169.254/latest' is not a path "
         "such as '/v1/chat/completions'"],
    ),
    "two urls": (
        GOOD_LINE + request("b", url="/v1/responses"),
        ["line 2: url '/v1/responses' differs from '/v1/chat/completions' on line 1; "
         "a batch has one url"],
    ),
    "two models": (
        GOOD_LINE + request("b", body={"model": "other"}),
        ["line 2: model 'other' differs from 'gpt-test' on line 1; a batch has one model"],
    ),
    "a model that is a list": (
        request(body={"model": ["gpt"]}),
        ["line 1: model is an array, not a string"],
    ),
    "body is missing": (request(body=...), ["line 1: body is missing"]),
    "a body that is text": (request(body="{}"), ["line 1: body is a string, not an object"]),
    "too many embeddings": (
        embeddings(MAX_EMBEDDING_INPUTS + 1),
        ["the requests have 50,001 embedding inputs in total; OpenAI's limit is 50,000"],
    ),
    "too many requests": (
        b"".join(request(str(number)) for number in range(MAX_LINES + 1)),
        ["the file has 50,001 requests; OpenAI's limit is 50,000, "
         "and requests beyond it were not checked"],
    ),
}  # fmt: skip


def fails(bench: Bench, good: Task, task: Task, *, worker: bool) -> str:
    """Run a task that can't work, all the rest of the promise checked; returns its message.

    ``worker`` says that only a worker can judge it.
    """
    with bench.nothing_else_stops(good):
        meta = bench.create(task)
        if worker:
            assert bench.get(task.task_type, meta).phase == "QUEUED"
            bench.step(meta)
        answer = bench.get(task.task_type, meta)
        bench.delete(task.task_type, meta)
        assert bench.get(task.task_type, meta) == answer
    assert answer.phase == "FAILED"
    assert clean(answer.message), answer.message
    assert len(meta) < 64_000
    return answer.message


@pytest.mark.parametrize(("content", "problems"), FILES.values(), ids=FILES)
def test_a_bad_file(
    bench: Bench, good: Task, tmp_path: Path, content: bytes, problems: list[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    message = fails(bench, good, upload(str(path)), worker=True)
    first = ONE if len(problems) == 1 else MANY.format(len(problems))
    # What a fault in JSON is called is the parser's matter; where it is, is ours.
    expected = re.escape("\n".join([first, *problems])).replace(re.escape("<fault>"), "[^\n]+")
    assert re.fullmatch(expected, message), message


def test_a_file_that_is_too_large(bench: Bench, good: Task, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    blank = b" " * (1 << 20) + b"\n"
    with path.open("wb") as file:
        for _ in range(MAX_BYTES // len(blank) + 1):
            file.write(blank)
    message = fails(bench, good, upload(str(path)), worker=True)
    path.unlink()
    assert message.startswith(ONE)
    assert "the file is larger than OpenAI's limit of 200 MB (209,715,200 bytes)" in message


def test_a_file_with_everything_wrong(bench: Bench, good: Task, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x\n" * 10_000)
    message = fails(bench, good, upload(str(path)), worker=True)
    assert message.startswith(MANY.format("10,000"))
    assert message.endswith("... and 9,900 more problems")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


#: What is where the file should be.
NO_FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": Path.mkdir,
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a link to nothing": lambda path: path.symlink_to(path.parent / "gone"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
@pytest.mark.timeout(30)
def test_no_file(
    bench: Bench,
    good: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], object],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("in.jsonl"))
    path = tmp_path / "in.jsonl"
    assert fails(bench, good, upload(str(path)), worker=True) == f"There is no file {path}."


@pytest.mark.parametrize("name", ["x" * 300, "in.jsonl/in.jsonl", "%2e%2e/in.jsonl", "~/in.jsonl"])
def test_no_such_name(bench: Bench, good: Task, tmp_path: Path, name: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(GOOD_LINE)
    message = fails(bench, good, upload(f"{tmp_path}/{name}"), worker=True)
    assert message.startswith(("There is no file /", "There is no file '/"))


# Configs

#: The config, and what is said of it.
CONFIGS: dict[str, tuple[object, str]] = {
    "text": ("24h", "config must be a dict, not str."),
    "empty text": ("", "config must be a dict, not str."),
    "a list": ([1], "config must be a dict, not list."),
    "an empty list": ([], "config must be a dict, not list."),
    "false": (False, "config must be a dict, not bool."),
    "a parameter of requests": (
        {"temperature": 1},
        "config has the unknown key 'temperature'. The valid keys are completion_window, endpoint, "
        "metadata, model, output_expires_after; parameters of requests belong in the lines "
        "of the JSONL file.",
    ),
    "an API key": ({"api_key": API_KEY}, "config has the unknown key 'api_key'."),
    "an API key as a key": ({API_KEY: 1}, "config has the unknown key '***'."),
    "headers": ({"extra_headers": {"x": "y"}}, "config has the unknown key 'extra_headers'."),
    "the input file": ({"input_file_id": "file-2"}, "the unknown key 'input_file_id'."),
    "a huge key": ({"k" * 100_000: 1}, "config has the unknown key 'kkk"),
    "an endpoint with a host": (
        {"endpoint": f"https://user:{PASSWORD}@example.org/v1"},
        "config['endpoint'] must be a path such as '/v1/chat/completions', "
        "not 'https://***example.org/v1'.",
    ),
    "an endpoint with a newline": (
        {"endpoint": "/v1\r\nX:"},
        "config['endpoint'] must be a path",
    ),
    "an endpoint that is a dict": ({"endpoint": {"a": 1}}, "config['endpoint'] must be a path"),
    "a huge endpoint": ({"endpoint": "/" + "x" * 100_000}, "config['endpoint'] must be a path"),
    "a window that is a number": (
        {"completion_window": 24},
        "config['completion_window'] must be a string of 1 to 256 printable characters, not 24.0.",
    ),
    "a model that is a list": ({"model": ["m"]}, "config['model'] must be a string of 1 to 256"),
    "a model with a newline": (
        {"model": "m\n"},
        "config['model'] must be a string of 1 to 256 printable characters, not",
    ),
    "a huge model": (
        {"model": "m" * 100_000},
        "config['model'] must be a string of 1 to 256 printable characters, not 'mmm",
    ),
    "metadata that is a list": (
        {"metadata": ["a"]},
        "config['metadata'] must be a dict of strings, not list.",
    ),
    "17 pairs": (
        {"metadata": {f"k{n}": "v" for n in range(17)}},
        "config['metadata'] has 17 pairs; OpenAI accepts at most 16.",
    ),
    "10,000 pairs": (
        {"metadata": {f"k{n}": "v" for n in range(10_000)}},
        "config['metadata'] has 10000 pairs; OpenAI accepts at most 16.",
    ),
    "metadata with a number": (
        {"metadata": {"n": 1}},
        "config['metadata'] must map strings to strings; the key 'n' does not.",
    ),
    "metadata with a dict": (
        {"metadata": {"n": {"a": {"b": {"c": {}}}}}},
        "config['metadata'] must map strings to strings; the key 'n' does not.",
    ),
    "a long key": ({"metadata": {"k" * 65: "v"}}, "config['metadata'] has a key of 65 characters"),
    "an empty key": ({"metadata": {"": "v"}}, "config['metadata'] has a key of 0 characters"),
    "a long value": (
        {"metadata": {"k": "v" * 513}},
        "config['metadata']['k'] has 513 characters; OpenAI accepts at most 512.",
    ),
    "a huge value": (
        {"metadata": {"k": "v" * 1_000_000}},
        "config['metadata']['k'] has 1000000 characters; OpenAI accepts at most 512.",
    ),
    "our own key": (
        {"metadata": {"batchflow_job": "bf-mine"}},
        "config['metadata'] must not have the key 'batchflow_job', which Batchflow sets.",
    ),
    "an expiry that is text": (
        {"output_expires_after": "1h"},
        "config['output_expires_after'] must be a dict such as "
        "{'anchor': 'created_at', 'seconds': 86400}.",
    ),
    "an expiry without an end": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 1e300}},
        "config['output_expires_after']['seconds'] must be a whole number, not 1e+300; "
        "OpenAI accepts 3,600 to 2,592,000.",
    ),
    "an expiry in the past": (
        {"output_expires_after": {"anchor": "created_at", "seconds": -1}},
        "config['output_expires_after']['seconds'] must be a whole number, not -1.0; ",
    ),
    "a huge anchor": (
        {"output_expires_after": {"anchor": "a" * 100_000, "seconds": 86_400}},
        "config['output_expires_after']['anchor'] must be a string such as 'created_at'",
    ),
}

#: What a task says of itself beside its config.
CUSTOMS: dict[str, tuple[dict[str, Any], str]] = {
    "an organization with a space": ({"openai_organization": "org 1"}, ORGANIZATION),
    "an organization with a header": ({"openai_organization": "org\r\nX-Evil: 1"}, ORGANIZATION),
    "an organization with NUL": ({"openai_organization": "org\0"}, ORGANIZATION),
    "an organization beyond ASCII": ({"openai_organization": "örg"}, ORGANIZATION),
    "a huge organization": ({"openai_organization": "o" * 100_000}, ORGANIZATION),
    "an organization that is a number": ({"openai_organization": 0}, ORGANIZATION),
    "an organization that is a dict": ({"openai_organization": {"id": "org"}}, ORGANIZATION),
    "an API key as organization": ({"openai_organization": API_KEY}, ORGANIZATION),
    "a secret that is text": (
        {"secret_arg": API_KEY},
        "The task's secret_arg must be a dict with group and key.",
    ),
    "a secret without a name": (
        {"secret_arg": {}},
        "The task's secret_arg must name a secret by its group, key or both.",
    ),
    "a secret that is an API key": (
        {"secret_arg": {"group": "openai", "key": API_KEY}},
        f"secret_arg.key: {SECRET}",
    ),
    "a group that is a path": (
        {"secret_arg": {"group": "../../etc", "key": "passwd"}},
        f"secret_arg.group: {SECRET}",
    ),
    "a key that is a path": (
        {"secret_arg": {"group": "openai", "key": "../../../etc/passwd"}},
        f"secret_arg.key: {SECRET}",
    ),
    "an absolute key": ({"secret_arg": {"key": "/etc/passwd"}}, f"secret_arg.key: {SECRET}"),
    "a version that is a path": (
        {"secret_arg": {"group": "openai", "key": "key", "group_version": ".."}},
        f"secret_arg.group_version: {SECRET}",
    ),
    "a group with a newline": ({"secret_arg": {"group": "g\n"}}, f"secret_arg.group: {SECRET}"),
    "a group with NUL": ({"secret_arg": {"group": "g\0"}}, f"secret_arg.group: {SECRET}"),
    "a group that is a list": ({"secret_arg": {"group": ["g"]}}, f"secret_arg.group: {SECRET}"),
    "a huge key": ({"secret_arg": {"key": "k" * 100_000}}, f"secret_arg.key: {SECRET}"),
    "everything at once": (
        {"openai_organization": " ", "secret_arg": {"group": "/", "key": "*"}},
        f"secret_arg.group: {SECRET}",
    ),
}


@pytest.mark.parametrize(("config", "sentence"), CONFIGS.values(), ids=CONFIGS)
def test_a_bad_config(bench: Bench, good: Task, config: object, sentence: str) -> None:
    message = fails(bench, good, batch(config=config), worker=False)
    assert message.startswith(sentence) or f"has {sentence}" in message
    assert len(message) < 400


@pytest.mark.parametrize(("custom", "sentence"), CUSTOMS.values(), ids=CUSTOMS)
@pytest.mark.parametrize("task", [batch(), upload("/tmp/in.jsonl"), download({"id": "batch_1"})])
def test_a_bad_custom(
    bench: Bench, good: Task, task: Task, custom: dict[str, Any], sentence: str
) -> None:
    bad = Task(task.task_type, task.inputs, custom)
    message = fails(bench, good, bad, worker=False)
    assert sentence in message
    assert len(message) < 700


def test_an_order_that_is_too_large(bench: Bench, good: Task) -> None:
    task = Task(BATCH, batch().inputs, execution="x" * 100_000)
    message = fails(bench, good, task, worker=False)
    assert message.startswith("The task's config, inputs and names take 100,")
    assert message.endswith(" bytes; the limit is 65,536.")


# Literals


def scalar(**value: Any) -> Literal:
    literal = Literal()
    setattr(literal.scalar.primitive, *next(iter(value.items())))
    return literal


def none() -> Literal:
    literal = Literal()
    literal.scalar.none_type.SetInParent()
    return literal


def union(of: Literal) -> Literal:
    literal = Literal()
    literal.scalar.union.value.CopyFrom(of)
    return literal


def collection(*of: Literal) -> Literal:
    literal = Literal()
    literal.collection.SetInParent()
    literal.collection.literals.extend(of)
    return literal


def mapping(**of: Literal) -> Literal:
    return Literal(map=LiteralMap(literals=of))


def offloaded(uri: str) -> Literal:
    """A literal that is elsewhere."""
    literal = Literal()
    literal.offloaded_metadata.uri = uri
    literal.offloaded_metadata.size_bytes = 100
    return literal


#: Literals that are no text, no dict and no file.
OTHERS: dict[str, Literal] = {
    "nothing": Literal(),
    "an empty scalar": Literal(scalar={}),
    "none": none(),
    "a number": scalar(integer=7),
    "a large number": scalar(integer=2**62),
    "not a number": scalar(float_value=float("nan")),
    "a boolean": scalar(boolean=True),
    "a union": union(text("file-1")),
    "a list": collection(text("file-1"), blob("/tmp/in.jsonl")),
    "an empty list": collection(),
    "a map": mapping(id=text("batch_1"), output_file_id=text("file-1")),
    "an offloaded one": offloaded("file:///etc/passwd"),
    "one offloaded to the cloud's metadata": offloaded("http://169.254.169.254/latest/"),
    "msgpack with another tag": packed({"id": "batch_1"}, tag="pickle"),
    "msgpack without a tag": packed({"id": "batch_1"}, tag=""),
    "a msgpack number": packed(7),
    "a msgpack list": packed(["file-1"]),
}
#: Bytes that say that they are msgpack.
BROKEN: dict[str, bytes] = {
    "no bytes": b"",
    "an unused byte": b"\xc1",
    "cut off": b"\x82\xa2id",
    "more than one": b"\xa1a\xa1b",
    "not UTF-8": b"\xa2\xff\xfe",
    "a list without an end": b"\xdd\xff\xff\xff\xff",
    "nested deeply": b"\x91" * 100_000 + b"\xc0",
    "keys that are lists": b"\x81\x90\x01",
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os",
}
BROKEN_LITERALS = {f"msgpack, {name}": packed(value) for name, value in BROKEN.items()}


@pytest.mark.parametrize("literal", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize(
    ("task_type", "name", "sentence"),
    [
        (BATCH, "input_file_id", NO_STR),
        (
            DOWNLOAD,
            "batch_endpoint_result",
            NO_DICT,
        ),
        (UPLOAD, "jsonl_in", "The task's input jsonl_in must be a JSONL file."),
    ],
    ids=["batch", "download", "upload"],
)
def test_an_input_of_another_type(
    bench: Bench, good: Task, task_type: str, name: str, sentence: str, literal: Literal
) -> None:
    assert fails(bench, good, Task(task_type, {name: literal}), worker=False) == sentence


@pytest.mark.parametrize("literal", BROKEN_LITERALS.values(), ids=BROKEN_LITERALS)
@pytest.mark.parametrize(
    ("task_type", "name"), [(BATCH, "input_file_id"), (DOWNLOAD, "batch_endpoint_result")]
)
def test_an_input_that_is_broken(
    bench: Bench, good: Task, task_type: str, name: str, literal: Literal
) -> None:
    message = fails(bench, good, Task(task_type, {name: literal}), worker=False)
    assert message.startswith(f"The task's input {name} can't be read (")


#: The task, and what is said of it.
INPUTS: dict[str, tuple[Task, str]] = {
    "a batch without inputs": (Task(BATCH, {}), "The task needs the input input_file_id."),
    "a batch with another input": (
        Task(BATCH, {"file": text("file-1")}),
        "The task needs the input input_file_id.",
    ),
    "a batch with a dict": (
        batch(packed({"id": "file-1"})),
        NO_STR,
    ),
    "a batch with a Struct": (
        batch(struct({"id": "file-1"})),
        NO_STR,
    ),
    "a batch with a file": (
        batch(blob("s3://bucket/file-1")),
        NO_STR,
    ),
    "a batch that accepts a part, perhaps": (
        batch(accept_partial="perhaps"),
        f"{AS_IT_IS}accept_partial: must be true or false.",
    ),
    "a batch that accepts a dict": (
        batch(accept_partial={"a": 1}),
        f"{AS_IT_IS}accept_partial: must be true or false.",
    ),
    "a download without inputs": (
        Task(DOWNLOAD, {}),
        "The task needs the input batch_endpoint_result.",
    ),
    "a download with a text": (
        download(text("batch_1")),
        NO_DICT,
    ),
    "a download with nothing in it": (
        download({}),
        "batch_endpoint_result must be the dict that the batch task returned; "
        "this one has none of the keys error_file_id, id, output_file_id.",
    ),
    "a download with another dict": (
        download({"status": "completed"}),
        "batch_endpoint_result must be the dict that the batch task returned; ",
    ),
    "a download with an empty Struct": (
        download(struct({})),
        "batch_endpoint_result must be the dict that the batch task returned; ",
    ),
    "a download with a Struct of no number": (
        download(struct({"id": float("nan")})),
        "The task's input batch_endpoint_result can't be read (",
    ),
    "a download with a number": (
        download({"output_file_id": 7}),
        f"{AS_IT_IS}output_file_id: {ID}",
    ),
    "a download with false": (
        download({"output_file_id": False}),
        f"{AS_IT_IS}output_file_id: {ID}",
    ),
    "a download with a list": (
        download({"id": "batch_1", "error_file_id": ["file-1"]}),
        f"{AS_IT_IS}error_file_id: {ID}",
    ),
    "a download with bytes": (
        download({"output_file_id": b"file-1"}),
        f"{AS_IT_IS}output_file_id: {ID}",
    ),
    "a download with a huge id": (
        download({"output_file_id": "f" * 1_000_000}),
        f"{AS_IT_IS}output_file_id: {ID}",
    ),
    "an upload without inputs": (
        Task(UPLOAD, {}),
        "The task's input jsonl_in must be a JSONL file.",
    ),
    "an upload with a text": (
        Task(UPLOAD, {"jsonl_in": text("/tmp/in.jsonl")}),
        "The task's input jsonl_in must be a JSONL file.",
    ),
    "an upload with a dict": (
        Task(UPLOAD, {"jsonl_in": packed({"path": "/tmp/in.jsonl"})}),
        "The task's input jsonl_in must be a JSONL file.",
    ),
    "a file without a URI": (upload(""), f"{AS_IT_IS}uri: {URI}"),
    "a file with a huge URI": (upload("s3://bucket/" + "x" * 5_000), f"{AS_IT_IS}uri: {URI}"),
    "a file with NUL": (upload("/tmp/in.jsonl\0.txt"), f"{AS_IT_IS}uri: {URI}"),
    "a file with a newline": (upload("s3://bucket/\n/etc/passwd"), f"{AS_IT_IS}uri: {URI}"),
    "no place for the outputs": (
        download({"id": "batch_1"}, output_prefix=""),
        f"{AS_IT_IS}destination: {URI}",
    ),
    "a huge place for the outputs": (
        download({"id": "batch_1"}, output_prefix="s3://" + "x" * 5_000),
        f"{AS_IT_IS}destination: {URI}",
    ),
}


@pytest.mark.parametrize(("task", "sentence"), INPUTS.values(), ids=INPUTS)
def test_a_bad_input(bench: Bench, good: Task, task: Task, sentence: str) -> None:
    assert fails(bench, good, task, worker=False).startswith(sentence)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


def test_the_connector_unpickles_nothing(bench: Bench, good: Task, tmp_path: Path) -> None:
    """A literal's metadata can ask for it, and flytekit's type engine would do so."""
    trap, trace = tmp_path / "trap", tmp_path / "trace"
    trap.write_bytes(pickle.dumps(Trap(trace)))
    literal = struct({"pickle_file": str(trap)}, format="pickle")
    message = fails(bench, good, download(literal), worker=False)
    assert message.startswith("batch_endpoint_result must be the dict that the batch task returned")
    assert not trace.exists()


def test_the_connector_fetches_nothing(bench: Bench, good: Task, tmp_path: Path) -> None:
    """A literal can say that it is elsewhere, and flytekit's type engine would go there."""
    elsewhere = tmp_path / "literal.pb"
    elsewhere.write_bytes(text("file-1").SerializeToString())
    message = fails(bench, good, batch(offloaded(str(elsewhere))), worker=False)
    assert message == NO_STR


# Ids

IDS: dict[str, str] = {
    "empty": "",
    "a space": " ",
    "a path": "../../etc/passwd",
    "a path behind an id": "file-1/../../batches",
    "an absolute path": "/etc/passwd",
    "only dots": "..",
    "a query": "file-1?purpose=x",
    "a fragment": "file-1#x",
    "percent": "file-1%2f..%2fx",
    "a backslash": "..\\x",
    "a newline": "file-1\n",
    "a header": "file-1\r\nX-Evil: 1",
    "NUL": "file-1\0",
    "a space inside": "file 1",
    "an escape sequence": "file-1\x1b[2J",
    "DEL": "file-1\x7f",
    "a glob": "file-*",
    "a glob with brackets": "file-[a-z]",
    "braces": "{file-1}",
    "a pipe": "file-1|x",
    "a quote": "file-1'",
    "another alphabet": "f\u0456le-1",
    "a digit beyond ASCII": "file-\u0661",
    "invisible": "file-1\u200b",
    "overlong": "f" * 257,
    "huge": "f" * 1_000_000,
}


@pytest.mark.parametrize("value", IDS.values(), ids=IDS)
def test_a_bad_input_file_id(bench: Bench, good: Task, value: str) -> None:
    message = fails(bench, good, batch(value), worker=False)
    assert message.startswith(f"{AS_IT_IS}input_file_id: {ID}")
    assert len(message) < 200


@pytest.mark.parametrize("name", ["output_file_id", "error_file_id"])
@pytest.mark.parametrize(
    "value", [value for value in IDS.values() if value], ids=[name for name in IDS if IDS[name]]
)
def test_a_bad_id_in_a_batch(bench: Bench, good: Task, name: str, value: str) -> None:
    for literal in (packed({"id": "batch_1", name: value}), struct({name: value})):
        message = fails(bench, good, download(literal), worker=False)
        assert message.startswith(f"{AS_IT_IS}{name}: {ID}")


#: What Flyte hands back, where it should be what the connector gave: the record with changes.
METAS: dict[str, Mapping[str, Any] | bytes] = {
    **{f"a job id: {name}": {"job_id": value} for name, value in IDS.items()},
    "no job id": {"job_id": None},
    "a job id that is a number": {"job_id": 7},
    "a job id of another prefix": {"job_id": "xx-" + "a" * 26},
    "a job id with a key's separator": {"job_id": "bf-" + "a" * 26 + ":due"},
    "a job id with a newline": {"job_id": "bf-" + "a" * 26 + "\n"},
    "no spec": {"spec": None},
    "a spec of another kind": {"spec": {"kind": "shell", "command": "id"}},
    "a spec with a path as an id": {
        "spec": {"kind": "batch", "credential": {}, "input_file_id": "../x", "config": {}}
    },
    "a spec with another parameter": {
        "spec": {
            "kind": "batch",
            "credential": {},
            "input_file_id": "file-1",
            "config": {"extra_headers": {"x": "y"}},
        }
    },
    "a spec with a secret's path": {
        "spec": {"kind": "upload", "credential": {"group": "../etc"}, "uri": "s3://b/x"}
    },
    "nothing": b"",
    "null": b"null",
    "a number": b"1e999",
    "a huge number": b"9" * 10_000,
    "text": b'"refused"',
    "a list": b'["refused"]',
    "no reason": b'{"refused": null}',
    "a reason that is a dict": b'{"refused": {"a": 1}}',
    "not JSON": b"{'a': 1}",
    "not UTF-8": b"\xff\xfe{}",
    "nested deeply": b"[" * 200_000,
    "dicts nested deeply": b'{"a":' * 200_000,
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os",
}


@pytest.mark.parametrize("change", METAS.values(), ids=METAS)
def test_a_bad_resource_meta(bench: Bench, good: Task, change: Mapping[str, Any] | bytes) -> None:
    with bench.nothing_else_stops(good):
        meta = change if isinstance(change, bytes) else b""
        if isinstance(change, Mapping):
            # Of a job that Redis doesn't have: a record would answer for it.
            job_request = {**json.loads(bench.create(batch())), "job_id": random_job_id()}
            meta = json.dumps({**job_request, **change}).encode()
        answers = set()
        for task_type in (BATCH, UPLOAD, DOWNLOAD):
            bench.delete(task_type, meta)
            answers.add(bench.get(task_type, meta))
    [answer] = answers
    assert answer.phase == "FAILED"
    assert answer.message == (
        "This task was started by a connector other than Batchflow's, so Batchflow cannot follow "
        "it. Run the task again. If it started a batch, that batch continues at OpenAI."
    )


# URIs

SIGNATURE = "X-Amz-Signature=hunter2hunter2"

#: Refused for what it is, as a file and as the place for outputs: the URI as it is shown, if it
#: is shown differently, and the reason.
URIS: dict[str, tuple[str, str, str]] = {
    "the worker's password file": (
        "file:///etc/passwd",
        "",
        ELSEWHERE,
    ),
    "the worker's secrets": ("/etc/secrets/openai/key", "", ELSEWHERE),
    "its environment": ("/proc/self/environ", "", ELSEWHERE),
    "its standard input": ("/dev/stdin", "", ELSEWHERE),
    "the root": ("/", "", ELSEWHERE),
    "a way out": ("/tmp/../etc/passwd", "", ELSEWHERE),
    "two slashes": ("//etc/passwd", "", ELSEWHERE),
    "file with a host": ("file://host/etc/passwd", "", f": {NO_URI}"),
    "file with localhost": ("file://localhost/etc/passwd", "", f": {NO_URI}"),
    "file with one slash": ("file:/etc/passwd", "", f": {NO_URI}"),
    "an uppercase file": ("FILE:///etc/passwd", "", f": {NO_URI}"),
    "fsspec's local": ("local:///etc/passwd", "", ELSEWHERE),
    "the cloud's metadata": (
        "http://169.254.169.254/latest/meta-data/iam/",
        "",
        ELSEWHERE,
    ),
    "the metadata, as a number": (
        "http://2852039166/latest/",
        "",
        ELSEWHERE,
    ),
    "the machine itself": ("http://localhost:6379/", "", ELSEWHERE),
    "IPv6": ("http://[::1]:6379/", "http://[::1]:6379/", CHAINED),
    "a broken host": ("http://[1:1/x", "", ELSEWHERE),
    "Redis": ("redis://localhost:6379/0", "", ELSEWHERE),
    "https": ("https://example.org/in.jsonl", "", ELSEWHERE),
    "ftp": ("ftp://example.org/in.jsonl", "", ELSEWHERE),
    "sftp": ("sftp://example.org/in.jsonl", "", ELSEWHERE),
    "github": ("github://org:repo@main/x", "github://main/x", ": it contains a password."),
    "data": (f"data:;base64,{base64.b64encode(GOOD_LINE).decode()[:40]}", "", f": {NO_URI}"),
    "memory": ("memory://in.jsonl", "", ELSEWHERE),
    "javascript": ("javascript:alert(1)", "", f": {NO_URI}"),
    "a cache before": ("simplecache::s3://b/in.jsonl", "", CHAINED),
    "an archive before": (
        "zip://in.jsonl::s3://b/a.zip",
        "",
        CHAINED,
    ),
    "a file behind": ("s3://b::file:///etc/passwd", "", CHAINED),
    "a file behind nothing": (
        "s3::file:///etc/passwd",
        "",
        CHAINED,
    ),
    "a login behind": (
        f"filecache::https://user:{PASSWORD}@example.org/x",
        "filecache::https://example.org/x",
        CHAINED,
    ),
    "an uppercase scheme": ("S3://bucket/in.jsonl", "", f": {NO_URI}"),
    "half a scheme": ("s3:/bucket/in.jsonl", "", f": {NO_URI}"),
    "no slashes": ("s3:bucket/in.jsonl", "", f": {NO_URI}"),
    "a space before": (" s3://bucket/in.jsonl", "", f": {NO_URI}"),
    "a parent": ("s3://bucket/a/../../other/in.jsonl", "", ": it contains '..'."),
    "an encoded parent": ("s3://bucket/%2e%2e/other", "", ": it contains '..'."),
    "a half encoded parent": ("gs://bucket/a/.%2E%2Fb", "", ": it contains '..'."),
    "a parent behind a fragment": ("s3://bucket/#/../x", "s3://bucket/", ": it contains '..'."),
    "a password": (
        f"s3://user:{PASSWORD}@bucket/in.jsonl",
        "s3://bucket/in.jsonl",
        ": it contains a password.",
    ),
    "a password with a slash": (
        f"s3://user:{PASSWORD}/x@bucket/in.jsonl",
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
    "an escape sequence": ("s3:\u009b2J", repr("s3:\u009b2J"), f": {NO_URI}"),
}


@pytest.mark.parametrize(("uri", "shown", "reason"), URIS.values(), ids=URIS)
def test_a_bad_uri_of_a_file(bench: Bench, good: Task, uri: str, shown: str, reason: str) -> None:
    message = fails(bench, good, upload(uri), worker=True)
    assert message.startswith(f"{MAY_NOT}{shown or uri}")
    assert reason in message


@pytest.mark.parametrize(("uri", "shown", "reason"), URIS.values(), ids=URIS)
def test_a_bad_place_for_the_outputs(
    bench: Bench, good: Task, uri: str, shown: str, reason: str
) -> None:
    task = download({"output_file_id": "file-1", "error_file_id": "file-2"}, output_prefix=uri)
    message = fails(bench, good, task, worker=True)
    assert message.startswith(f"{MAY_NOT}{shown or uri}")
    assert reason in message


#: Flyte's place for the outputs is never relative; a file's may be, in a local run.
RELATIVE = {
    "a name": "in.jsonl",
    "a way out": "../" * 40 + "etc/passwd",
    "a home": "~/.aws/credentials",
    "a query": f"in.jsonl?{SIGNATURE}",
    "letters that change direction": "\u202ein.jsonl",
}


@pytest.mark.parametrize("uri", RELATIVE.values(), ids=RELATIVE)
def test_a_relative_place_for_the_outputs(bench: Bench, good: Task, uri: str) -> None:
    message = fails(bench, good, download({"id": "x"}, output_prefix=uri), worker=True)
    assert message.endswith(f": {NO_URI}")


def test_a_relative_way_out(bench: Bench, good: Task) -> None:
    message = fails(bench, good, upload(RELATIVE["a way out"]), worker=True)
    assert message.startswith(f"{MAY_NOT}/")
    assert ELSEWHERE in message


@pytest.mark.parametrize("name", ["in.jsonl", "~/in.jsonl", "./12:30.jsonl", "\u202ein.jsonl"])
def test_no_such_relative_name(
    bench: Bench, good: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = fails(bench, good, upload(name), worker=True)
    path = str(tmp_path / name)
    assert message == f"There is no file {path if path.isprintable() else repr(path)}."


def test_a_link_that_leads_out(bench: Bench, good: Task, tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    (tmp_path / "chain").symlink_to(tmp_path / "folder")
    for name in ("file", "folder/passwd", "chain/passwd", "folder/no-such-file"):
        message = fails(bench, good, upload(f"{tmp_path}/{name}"), worker=True)
        assert message.startswith(f"{MAY_NOT}{tmp_path}/{name}. It must begin with one of: ")
    task = download({"output_file_id": "file-1"}, output_prefix=f"{tmp_path}/folder/0")
    assert fails(bench, good, task, worker=True).startswith(MAY_NOT)


def test_a_local_path_where_the_stack_is_not_local(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    remote = allowed_uris(settings(redis_url="rediss://redis.example.org:6379/0"))
    for uri in (f"{tmp_path}/in.jsonl", f"file://{tmp_path}/in.jsonl", "/in.jsonl"):
        with pytest.raises(InvalidInput, match="It must begin with one of: s3://") as caught:
            check_uri(uri, remote)
        assert clean(str(caught.value))


# All of it


def test_all_of_them_at_the_same_time(bench: Bench, good: Task) -> None:
    """The worker's steps of many bad jobs, one upon the other, while a good one waits."""
    bad = [upload(uri) for uri, _, _ in URIS.values()]
    bad += [task for task, _ in INPUTS.values()]
    with bench.nothing_else_stops(good):
        metas = [(task.task_type, bench.create(task)) for task in bad]
        for _, meta in metas:
            if b'"refused"' not in meta:
                bench.step(meta)
        answers = {bench.get(task_type, meta).phase for task_type, meta in metas}
    assert answers == {"FAILED"}


def test_only_the_good_ones_have_reached_openai(bench: Bench) -> None:
    asked = bench.asked()
    assert asked["batches_created"] == 0
    assert set(asked["calls"]) == {"files.create"}
    assert {file["bytes"] for file in bench.steps.uploads()} == {len(lines())}
    assert len(bench.steps.uploads()) == asked["files_uploaded"]


def test_there_are_at_least_a_hundred_kinds() -> None:
    tables = (FILES, NO_FILES, CONFIGS, CUSTOMS, OTHERS, BROKEN, INPUTS, IDS, METAS, URIS, RELATIVE)
    assert len([name for table in tables for name in table]) >= 100
