"""Batchflow's flytekit tasks, and input files for them."""

import json
from pathlib import Path
from typing import Any

from flytekit import Secret

from batchflow import (
    BatchEndpointTask,
    DownloadJSONFilesTask,
    OpenAIFileConfig,
    UploadJSONLFileTask,
)

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
