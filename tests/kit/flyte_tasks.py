"""Batchflow's flytekit tasks, input files for them, and their start through a connector."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flyteidl.core.literals_pb2 import LiteralMap
from flytekit import Secret

from batchflow import (
    BatchEndpointTask,
    DownloadJSONFilesTask,
    OpenAIFileConfig,
    UploadJSONLFileTask,
)
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient, Node, Task, file_inputs, inputs_of, template_of

#: The secret in the documentation of Flyte's OpenAI plugin.
SECRET = Secret(group="openai-api-key", key="api_key", mount_requirement=Secret.MountType.ENV_VAR)

CHAT = "/v1/chat/completions"


def upload_task(organization: str) -> UploadJSONLFileTask:
    """An upload task."""
    return UploadJSONLFileTask(name="upload", task_config=file_config(organization))


def batch_task(organization: str, **config: Any) -> BatchEndpointTask:
    """A batch task."""
    return BatchEndpointTask(name="batch", config=config, openai_organization=organization)


def download_task(organization: str) -> DownloadJSONFilesTask:
    """A download task."""
    return DownloadJSONFilesTask(name="download", task_config=file_config(organization))


def file_config(organization: str) -> OpenAIFileConfig:
    """The credential of the upload and download tasks."""
    return OpenAIFileConfig(secret=SECRET, openai_organization=organization)


def request_line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    """One chat request."""
    message = {"role": "user", "content": f"What is {custom_id}?"}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {"model": "gpt-4o-mini", "messages": [message], **body},
    }


def requests(count: int = 3, **body: Any) -> bytes:
    """A batch file with the custom_ids ``r-0``, ``r-1`` ..."""
    return jsonl([request_line(f"r-{number}", **body) for number in range(count)])


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    """Objects as JSON Lines."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def put(folder: Path, content: bytes, name: str = "requests.jsonl") -> str:
    """Write a file to the folder that stands for blob storage; returns its URI."""
    path = folder / name
    path.write_bytes(content)
    return str(path)


def custom_ids(path: str) -> list[str]:
    """The custom_ids in a result file, sorted."""
    lines = Path(path).read_text("utf-8").splitlines()
    return sorted(json.loads(line)["custom_id"] for line in lines)


@dataclass(frozen=True)
class TaskStarter:
    """Starts tasks of one OpenAI organization, at a node of an execution."""

    flyte: FlyteClient
    emulator: Emulator
    org: str
    node: Node

    def at(self, node: str = "n0", *, org: str = "") -> "TaskStarter":
        """The same for another node, and perhaps for another organization."""
        return replace(self, node=replace(self.node, node=node), org=org or self.org)

    def again(self) -> "TaskStarter":
        """The same for the next attempt at the node."""
        return replace(self, node=self.node.again())

    def upload(self, content: bytes = b"") -> Task:
        """Start an upload, by default of three requests."""
        name = f"{self.node.execution}-{self.node.node}.jsonl"
        source = file_inputs(put(self.node.folder, content or requests(), name))
        return self._start(upload_task(self.org), source)

    def batch(self, file_id: str = "", **config: Any) -> Task:
        """Start a batch of an uploaded file, by default of three requests."""
        file_id = file_id or self.emulator.upload(self.org, requests())
        return self._start(batch_task(self.org, **config), inputs_of(input_file_id=file_id))

    def download(self, result: Any) -> Task:
        """Start a download of a batch's results."""
        return self._start(download_task(self.org), inputs_of(batch_endpoint_result=result))

    def batches(self) -> list[dict[str, Any]]:
        """The organization's batches at OpenAI, oldest first."""
        return self.emulator.batches(self.org)

    def batch_ids(self) -> list[str]:
        """The ids of these batches."""
        return [batch["id"] for batch in self.batches()]

    def upload_ids(self) -> list[str]:
        """The ids of the organization's batch files at OpenAI, oldest first."""
        return [file["id"] for file in self.emulator.uploads(self.org)]

    def _start(self, task: Any, inputs: LiteralMap) -> Task:
        return self.flyte.create(template_of(task), inputs, self.node)
