"""Bad configs, literals, ids: the task fails with a clear message, and nothing reaches OpenAI."""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flyteidl.core.literals_pb2 import Literal, LiteralMap

from batchflow.jobs import random_job_id
from tests.kit.bad_input import (
    API_KEY,
    BATCH,
    DOWNLOAD,
    PASSWORD,
    UPLOAD,
    Task,
    TaskRunner,
    blob,
    packed,
    running_tasks,
    struct,
    text,
)

NOT_A_STR = "The task's input input_file_id must be a str."
NOT_A_DICT = "The task's input batch_endpoint_result must be a dict."
NOT_A_FILE = "The task's input jsonl_in must be a JSONL file."
NOT_A_RESULT = "batch_endpoint_result must be the dict that the batch task returned"
NOT_VALID = "The task is not valid. "
ID = "must be an id from OpenAI, such as 'file-abc123'"
SECRET = "must be the name of a secret, never the API key itself"
ORGANIZATION = "openai_organization: must be an organization's id, such as 'org-abc123'"
URI = "must be a URI of 1 to 4,096 characters, none of them a control character."


@pytest.fixture(scope="module")
def tasks(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskRunner]:
    with running_tasks(redis_url, tmp_path_factory.mktemp("valid")) as tasks:
        yield tasks


def upload(uri: str, **custom: Any) -> Task:
    return Task(UPLOAD, {"jsonl_in": blob(uri)}, custom)


def batch(file_id: Literal | str = "file-1", **custom: Any) -> Task:
    literal = text(file_id) if isinstance(file_id, str) else file_id
    return Task(BATCH, {"input_file_id": literal}, custom)


def download(result: Literal | Mapping[str, Any], **changes: Any) -> Task:
    literal = result if isinstance(result, Literal) else packed(result)
    return Task(DOWNLOAD, {"batch_endpoint_result": literal}, **changes)


def assert_fails(
    tasks: TaskRunner, expected: Mapping[str, tuple[Task, str]], max_chars: int = 700
) -> None:
    """Check that each task fails in the connector, with a message that contains its text."""
    messages = tasks.failures({name: task for name, (task, _) in expected.items()}, by_worker=False)
    wrong = {
        name: messages[name]
        for name, (_, fragment) in expected.items()
        if fragment not in messages[name] or len(messages[name]) > max_chars
    }
    assert not wrong


# Configs and custom

#: Configs that the transport changes, or that a message must shorten or mask. All rules are in
#: ``tests/unit/test_config.py``.
CONFIGS: dict[str, tuple[object, str]] = {
    "text": ("24h", "config must be a dict, not str."),
    "empty text": ("", "config must be a dict, not str."),
    "an empty list": ([], "config must be a dict, not list."),
    "false": (False, "config must be a dict, not bool."),
    "an API key": ({"api_key": API_KEY}, "config has the unknown key 'api_key'."),
    "an API key as a key": ({API_KEY: 1}, "config has the unknown key '***'."),
    "a huge key": ({"k" * 100_000: 1}, "config has the unknown key 'kkk"),
    "an endpoint with a password": (
        {"endpoint": f"https://user:{PASSWORD}@example.org/v1"},
        "config['endpoint'] must be a path such as '/v1/chat/completions', "
        "not 'https://***example.org/v1'.",
    ),
    "a huge endpoint": ({"endpoint": "/" + "x" * 100_000}, "config['endpoint'] must be a path"),
    "a number as a float": (
        {"completion_window": 24},
        "config['completion_window'] must be a string of 1 to 256 printable characters, not 24.0.",
    ),
    "a huge model": ({"model": "m" * 100_000}, "config['model'] must be a string of 1 to 256"),
    "10,000 pairs": (
        {"metadata": {f"k{n}": "v" for n in range(10_000)}},
        "config['metadata'] has 10000 pairs; OpenAI accepts at most 16.",
    ),
    "metadata with a dict": (
        {"metadata": {"n": {"a": {"b": {"c": {}}}}}},
        "config['metadata'] must map strings to strings; the key 'n' does not.",
    ),
    "a huge value": (
        {"metadata": {"k": "v" * 1_000_000}},
        "config['metadata']['k'] has 1000000 characters; OpenAI accepts at most 512.",
    ),
    "a huge expiry": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 1e300}},
        "config['output_expires_after']['seconds'] must be a whole number, not 1e+300; "
        "OpenAI accepts 3,600 to 2,592,000.",
    ),
    "a huge anchor": (
        {"output_expires_after": {"anchor": "a" * 100_000, "seconds": 86_400}},
        "config['output_expires_after']['anchor'] must be a string such as 'created_at'",
    ),
}

#: The rest of ``custom``.
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
    "everything at once": (
        {"openai_organization": " ", "secret_arg": {"group": "/", "key": "*"}},
        f"secret_arg.group: {SECRET}",
    ),
}
#: Names of secrets, each with the part that is not valid.
SECRETS: dict[str, tuple[dict[str, Any], str]] = {
    "a secret that is an API key": ({"group": "openai", "key": API_KEY}, "key"),
    "a group that is a path": ({"group": "../../etc", "key": "passwd"}, "group"),
    "a key that is a path": ({"group": "openai", "key": "../../../etc/passwd"}, "key"),
    "an absolute key": ({"key": "/etc/passwd"}, "key"),
    "a version that is a path": ({"key": "key", "group_version": ".."}, "group_version"),
    "a group with a newline": ({"group": "g\n"}, "group"),
    "a group with NUL": ({"group": "g\0"}, "group"),
    "a group that is a list": ({"group": ["g"]}, "group"),
    "a huge key": ({"key": "k" * 100_000}, "key"),
}
CUSTOMS |= {
    name: ({"secret_arg": secret}, f"secret_arg.{part}: {SECRET}")
    for name, (secret, part) in SECRETS.items()
}


def test_configs_that_are_not_valid(tasks: TaskRunner) -> None:
    assert_fails(
        tasks,
        {name: (batch(config=config), message) for name, (config, message) in CONFIGS.items()},
        max_chars=400,
    )


@pytest.mark.parametrize("task", [batch(), upload("/tmp/in.jsonl"), download({"id": "batch_1"})])
def test_custom_that_is_not_valid(tasks: TaskRunner, task: Task) -> None:
    assert_fails(
        tasks,
        {
            name: (Task(task.task_type, task.inputs, custom), message)
            for name, (custom, message) in CUSTOMS.items()
        },
    )


def test_a_job_request_that_is_too_large(tasks: TaskRunner) -> None:
    task = Task(BATCH, batch().inputs, execution="x" * 100_000)
    message = tasks.failure(task, by_worker=False)
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
    """A literal that is stored elsewhere."""
    literal = Literal()
    literal.offloaded_metadata.uri = uri
    literal.offloaded_metadata.size_bytes = 100
    return literal


#: Literals that are neither a text, a dict nor a file.
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
#: Malformed msgpack.
MALFORMED: dict[str, bytes] = {
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


@pytest.mark.parametrize(
    ("task_type", "name", "message"),
    [
        (BATCH, "input_file_id", NOT_A_STR),
        (DOWNLOAD, "batch_endpoint_result", NOT_A_DICT),
        (UPLOAD, "jsonl_in", NOT_A_FILE),
    ],
)
def test_inputs_of_another_type(tasks: TaskRunner, task_type: str, name: str, message: str) -> None:
    inputs = {case: Task(task_type, {name: literal}) for case, literal in OTHERS.items()}
    assert set(tasks.failures(inputs, by_worker=False).values()) == {message}


@pytest.mark.parametrize(
    ("task_type", "name"), [(BATCH, "input_file_id"), (DOWNLOAD, "batch_endpoint_result")]
)
def test_malformed_inputs(tasks: TaskRunner, task_type: str, name: str) -> None:
    message = f"The task's input {name} can't be read ("
    assert_fails(
        tasks,
        {
            case: (Task(task_type, {name: packed(value)}), message)
            for case, value in MALFORMED.items()
        },
    )


INPUTS: dict[str, tuple[Task, str]] = {
    "a batch without inputs": (Task(BATCH, {}), "The task needs the input input_file_id."),
    "a batch with another input": (
        Task(BATCH, {"file": text("file-1")}),
        "The task needs the input input_file_id.",
    ),
    "a batch with a dict": (batch(packed({"id": "file-1"})), NOT_A_STR),
    "a batch with a Struct": (batch(struct({"id": "file-1"})), NOT_A_STR),
    "a batch with a file": (batch(blob("s3://bucket/file-1")), NOT_A_STR),
    "a batch that accepts a part, perhaps": (
        batch(accept_partial="perhaps"),
        f"{NOT_VALID}accept_partial: must be true or false.",
    ),
    "a batch that accepts a dict": (
        batch(accept_partial={"a": 1}),
        f"{NOT_VALID}accept_partial: must be true or false.",
    ),
    "a download without inputs": (
        Task(DOWNLOAD, {}),
        "The task needs the input batch_endpoint_result.",
    ),
    "a download with a text": (download(text("batch_1")), NOT_A_DICT),
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
        f"{NOT_VALID}output_file_id: {ID}",
    ),
    "a download with false": (
        download({"output_file_id": False}),
        f"{NOT_VALID}output_file_id: {ID}",
    ),
    "a download with a list": (
        download({"id": "batch_1", "error_file_id": ["file-1"]}),
        f"{NOT_VALID}error_file_id: {ID}",
    ),
    "a download with bytes": (
        download({"output_file_id": b"file-1"}),
        f"{NOT_VALID}output_file_id: {ID}",
    ),
    "a download with a huge id": (
        download({"output_file_id": "f" * 1_000_000}),
        f"{NOT_VALID}output_file_id: {ID}",
    ),
    "an upload without inputs": (Task(UPLOAD, {}), NOT_A_FILE),
    "an upload with a text": (Task(UPLOAD, {"jsonl_in": text("/tmp/in.jsonl")}), NOT_A_FILE),
    "an upload with a dict": (
        Task(UPLOAD, {"jsonl_in": packed({"path": "/tmp/in.jsonl"})}),
        NOT_A_FILE,
    ),
    "a file without a URI": (upload(""), f"{NOT_VALID}uri: {URI}"),
    "a file with a huge URI": (upload("s3://bucket/" + "x" * 5_000), f"{NOT_VALID}uri: {URI}"),
    "a file with NUL": (upload("/tmp/in.jsonl\0.txt"), f"{NOT_VALID}uri: {URI}"),
    "a file with a newline": (upload("s3://bucket/\n/etc/passwd"), f"{NOT_VALID}uri: {URI}"),
    "no place for the outputs": (
        download({"id": "batch_1"}, output_prefix=""),
        f"{NOT_VALID}destination: {URI}",
    ),
    "a huge place for the outputs": (
        download({"id": "batch_1"}, output_prefix="s3://" + "x" * 5_000),
        f"{NOT_VALID}destination: {URI}",
    ),
}


def test_inputs_that_are_not_valid(tasks: TaskRunner) -> None:
    assert_fails(tasks, INPUTS)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


def test_the_connector_unpickles_nothing(tasks: TaskRunner, tmp_path: Path) -> None:
    """A literal's metadata can ask for it, and flytekit's type engine would comply."""
    trap, trace = tmp_path / "trap", tmp_path / "trace"
    trap.write_bytes(pickle.dumps(Trap(trace)))
    literal = struct({"pickle_file": str(trap)}, format="pickle")
    assert tasks.failure(download(literal), by_worker=False).startswith(NOT_A_RESULT)
    assert not trace.exists()


def test_the_connector_fetches_nothing(tasks: TaskRunner, tmp_path: Path) -> None:
    """A literal can be stored elsewhere, and flytekit's type engine would fetch it."""
    elsewhere = tmp_path / "literal.pb"
    elsewhere.write_bytes(text("file-1").SerializeToString())
    assert tasks.failure(batch(offloaded(str(elsewhere))), by_worker=False) == NOT_A_STR


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


def test_input_file_ids_that_are_not_valid(tasks: TaskRunner) -> None:
    message = f"{NOT_VALID}input_file_id: {ID}"
    assert_fails(
        tasks, {name: (batch(value), message) for name, value in IDS.items()}, max_chars=200
    )


@pytest.mark.parametrize("field", ["output_file_id", "error_file_id"])
@pytest.mark.parametrize("encode", [packed, struct])
def test_file_ids_in_a_batch_that_are_not_valid(tasks: TaskRunner, field: str, encode: Any) -> None:
    message = f"{NOT_VALID}{field}: {ID}"
    assert_fails(
        tasks,
        {
            name: (download(encode({"id": "batch_1", field: value})), message)
            for name, value in IDS.items()
            if value  # an empty one means that there is no file
        },
    )


#: ResourceMeta that the connector did not make: bytes, or changes of what it made.
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


def test_resource_metas_that_are_not_valid(tasks: TaskRunner) -> None:
    with tasks.undisturbed():
        statuses = set()
        for change in METAS.values():
            meta = change if isinstance(change, bytes) else b""
            if isinstance(change, Mapping):
                # With the id of a job that has no record, because a record would be used instead.
                job_request = {**json.loads(tasks.create(batch())), "job_id": random_job_id()}
                meta = json.dumps({**job_request, **change}).encode()
            for task_type in (BATCH, UPLOAD, DOWNLOAD):
                tasks.delete(task_type, meta)
                statuses.add(tasks.get(task_type, meta))
    [status] = statuses
    assert status.phase == "FAILED"
    assert status.message.startswith("This task was started by a connector other than Batchflow's")
