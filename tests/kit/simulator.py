"""Test a simulator through OpenAI's SDK and its control API."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from openai import OpenAI
from openai.types import Batch, FileObject

from tests.kit.processes import until

CHAT: Final = "/v1/chat/completions"
PROGRAM = "from batchflow.simulator.simulate_command import simulate; simulate()"
SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cw=="
READY = "OpenAI emulator ready: OPENAI_BASE_URL="
ENDED = ("completed", "failed", "expired", "cancelled")
#: Settings without delays.
INSTANT = {
    "validating_s": 0,
    "in_progress_s": 0,
    "per_request_s": 0,
    "finalizing_s": 0,
    "cancelling_s": 0,
}


@contextmanager
def running_simulator(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a simulator; yield its process and its base URL."""
    command = [sys.executable, "-c", PROGRAM, "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith(READY), process.stderr.read() if process.stderr else line
            yield process, line.removeprefix(READY).strip()
        finally:
            process.terminate()
            process.communicate(timeout=20)


def requests(count: int, **body: Any) -> bytes:
    """A batch file of chat requests."""
    return b"".join(line(f"r-{n}", **body) for n in range(count))


def line(custom_id: str, url: str = CHAT, **body: Any) -> bytes:
    """One request of a batch file."""
    params = {"model": "gpt-test", "messages": [{"role": "user", "content": custom_id}], **body}
    kept = {name: value for name, value in params.items() if value is not None}
    request = {"custom_id": custom_id, "method": "POST", "url": url, "body": kept}
    return json.dumps(request).encode() + b"\n"


@dataclass
class SimulatorClient:
    """OpenAI's SDK and the control API of a simulator."""

    base_url: str
    client: OpenAI
    http: httpx2.Client

    def control(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/simulator{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def upload(self, content: bytes, name: str = "in.jsonl") -> FileObject:
        return self.client.files.create(file=(name, content), purpose="batch")

    def create(self, content: bytes, endpoint: Any = CHAT, **params: Any) -> Batch:
        file_id = self.upload(content).id
        return self.client.batches.create(
            completion_window="24h", endpoint=endpoint, input_file_id=file_id, **params
        )

    def status_of(self, batch: Batch) -> str:
        return self.client.batches.retrieve(batch.id).status

    def finished(self, batch: Batch) -> Batch:
        def ended() -> Batch | None:
            found = self.client.batches.retrieve(batch.id)
            return found if found.status in ENDED else None

        return until(ended, f"the end of {batch.id}")

    def lines(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        """The lines of a result file by their custom_id."""
        assert file_id is not None
        text = self.client.files.content(file_id).text
        parsed = [json.loads(raw) for raw in text.splitlines()]
        return {item["custom_id"]: item for item in parsed}


@dataclass
class WebhookReceiver:
    """Receives webhooks; returns the given status codes first, then 204."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]
