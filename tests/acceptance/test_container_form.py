"""The transfer tasks as pods, for platforms that do not route their task types to a connector."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.literals_pb2 import LiteralMap

from tests.kit.emulator import Emulator
from tests.kit.flyte_client import Node, file_inputs, inputs_of, template_of
from tests.kit.flyte_tasks import (
    custom_ids,
    download_task,
    jsonl,
    put,
    request_line,
    requests,
    upload_task,
)
from tests.kit.processes import BIN, until
from tests.kit.stack import Stack


@dataclass
class Pod:
    """A task's container, with arguments filled in as by Flyte."""

    process: "subprocess.Popen[str]"
    output_prefix: Path

    def outputs(self) -> Any:
        """Wait for its success and return its outputs."""
        log = self._wait()
        outputs = LiteralMap()
        path = self.output_prefix / "outputs.pb"
        assert path.exists(), log
        outputs.ParseFromString(path.read_bytes())
        return outputs.literals["result"].scalar

    def error(self) -> Any:
        """Wait for its failure and return its error."""
        log = self._wait()
        document = ErrorDocument()
        path = self.output_prefix / "error.pb"
        assert path.exists(), log
        document.ParseFromString(path.read_bytes())
        assert not (self.output_prefix / "outputs.pb").exists()
        return document.error

    def _wait(self) -> str:
        log, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, log
        return log


@pytest.fixture
def start_pod(stack: Stack, node: Node) -> Callable[..., Pod]:
    """Start the container of a task, with Redis and without an API key in its environment."""

    def start(task: Any, inputs: LiteralMap, at: Node = node) -> Pod:
        template = template_of(task)
        prefix = Path(at.output_prefix)
        prefix.mkdir(parents=True)
        raw = at.folder / "raw"
        paths = {
            "{{.input}}": prefix.parent / "inputs.pb",
            "{{.outputPrefix}}": prefix,
            "{{.rawOutputDataPrefix}}": raw,
            "{{.taskTemplatePath}}": prefix.parent / "template.pb",
        }
        paths["{{.input}}"].write_bytes(inputs.SerializeToString())
        paths["{{.taskTemplatePath}}"].write_bytes(template.SerializeToString())
        arguments = [str(paths.get(argument, argument)) for argument in template.container.args]
        assert arguments[0] == "pyflyte-execute"
        process = subprocess.Popen(
            [BIN / arguments[0], *arguments[1:]],
            env=stack.env(
                {
                    "FLYTE_INTERNAL_EXECUTION_PROJECT": "shop",
                    "FLYTE_INTERNAL_EXECUTION_DOMAIN": "development",
                    "FLYTE_INTERNAL_EXECUTION_ID": at.execution,
                }
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Pod(process, prefix)

    return start


def test_an_upload(emulator: Emulator, org: str, node: Node, start_pod: Callable[..., Pod]) -> None:
    pod = start_pod(upload_task(org), file_inputs(put(node.folder, requests())))
    outputs = pod.outputs()
    assert [file["id"] for file in emulator.files(org)] == [outputs.primitive.string_value]


def test_a_download(
    emulator: Emulator, org: str, node: Node, start_pod: Callable[..., Pod]
) -> None:
    wrong = request_line("wrong", temperature=9)
    file_id = emulator.upload(org, jsonl([request_line("right"), wrong]))
    with emulator.sdk(org) as client:
        made = client.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        until(lambda: client.batches.retrieve(made.id).status == "completed", "the batch's end")
        result = client.batches.retrieve(made.id).to_dict()
    pod = start_pod(download_task(org), inputs_of(batch_endpoint_result=result))
    scalar = pod.outputs()
    assert scalar.binary.tag == "msgpack"
    files = msgpack.unpackb(scalar.binary.value)
    assert custom_ids(files["output_file"]["path"]) == ["right"]
    assert custom_ids(files["error_file"]["path"]) == ["wrong"]


def test_an_invalid_file_is_a_user_error_and_not_retried(
    emulator: Emulator, org: str, node: Node, start_pod: Callable[..., Pod]
) -> None:
    content = requests(1) + b"nonsense\n"
    error = start_pod(upload_task(org), file_inputs(put(node.folder, content))).error()
    assert "line 2: not valid JSON" in error.message
    assert emulator.files(org) == []
    assert error.kind == ContainerError.NON_RECOVERABLE
    assert error.origin == ExecutionError.USER


def test_a_repeated_pod_finds_its_job(
    emulator: Emulator, org: str, node: Node, start_pod: Callable[..., Pod]
) -> None:
    inputs = file_inputs(put(node.folder, requests()))
    first = start_pod(upload_task(org), inputs)
    # The first pod was evicted: Flyte starts another attempt while the job continues.
    second = start_pod(upload_task(org), inputs, node.again())
    sent = {pod.outputs().primitive.string_value for pod in (first, second)}
    assert {file["id"] for file in emulator.files(org)} == sent
    assert len(sent) == 1
