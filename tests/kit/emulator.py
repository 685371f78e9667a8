"""The emulator of OpenAI: its process, its control API, and OpenAI's SDK as a client of it."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from openai import OpenAI

from batchflow.stack import process_commands
from batchflow.stack.processes import free_port
from tests.kit.processes import Server, clean_environment

Json = dict[str, Any]

#: A batch stays in progress until a test ends it.
_ENDED_BY_TESTS: Mapping[str, object] = {
    "validating-s": 0,
    "in-progress-s": 600,
    "per-request-s": 0,
    "finalizing-s": 0,
    "cancelling-s": 0,
}


class EmulatorServer(Server):
    """The emulator with these options of ``batchflow simulate``."""

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, object],
        env: Mapping[str, str],
        *,
        name: str = "emulator",
    ) -> None:
        port = free_port()
        given = [f"--{key}={value}" for key, value in options.items()]
        log = folder / f"{name}.log"
        super().__init__(name, [*process_commands.simulator(port), *given], env, log, port=port)

    @property
    def base_url(self) -> str:
        """The value of OPENAI_BASE_URL."""
        return f"http://{self.address}/v1"


@contextmanager
def running_emulator(api_key: str) -> Iterator["Emulator"]:
    """An emulator whose batches are in progress until a test ends them."""
    with (
        tempfile.TemporaryDirectory(prefix="emulator-") as folder,
        EmulatorServer(Path(folder), _ENDED_BY_TESTS, clean_environment()) as server,
        closing(Emulator(server.base_url, api_key)) as emulator,
    ):
        yield emulator


class Emulator:
    """A client of a running emulator. Each organization has batches and files of its own."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._http = httpx2.Client(base_url=base_url.removesuffix("/v1"), timeout=15)
        self._initial = self._call("GET", "/config")
        self._changed: set[str] = set()

    def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        response = self._http.request(method, f"/simulator{path}", json=body)
        content: Json = response.raise_for_status().json()
        return content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def heal(self) -> None:
        """Undo what a test has set; batches and files stay."""
        self.end_outages()
        if self._changed:
            self.configure(**{name: self._initial[name] for name in self._changed})
            self._changed.clear()

    def configure(self, **settings: Any) -> None:
        """Change settings for batches that are created from now on."""
        self._changed |= set(settings)
        self._call("PATCH", "/config", settings)

    def outage(self, **outage: Any) -> None:
        """Start an outage."""
        self._call("POST", "/outage", outage)

    def end_outages(self) -> None:
        """End all outages."""
        self._call("DELETE", "/outage")

    def next(self, status: str, **options: Any) -> None:
        """Decide how the next batch will end."""
        self._call("POST", "/next", {"status": status, **options})

    def end(self, batch_id: str, status: str = "completed", **options: Any) -> None:
        """End a live batch now."""
        self._call("POST", f"/batches/{batch_id}/end", {"status": status, **options})

    def calls(self, operation: str) -> int:
        """The number of calls of an operation, by all organizations, successful or not."""
        return sum(self._call("GET", "/stats")["calls"].get(operation, {}).values())

    def batches(self, organization: str) -> list[Json]:
        """The batches of an organization, oldest first."""
        return self._of(organization, "/batches")

    def files(self, organization: str) -> list[Json]:
        """The files of an organization, oldest first."""
        return self._of(organization, "/files")

    def uploads(self, organization: str) -> list[Json]:
        """The batch files that an organization has uploaded."""
        return [file for file in self.files(organization) if file["purpose"] == "batch"]

    def _of(self, organization: str, path: str) -> list[Json]:
        entries = self._call("GET", path)["data"]
        return [entry for entry in entries if entry["organization"] == organization]

    def sdk(self, organization: str) -> OpenAI:
        """OpenAI's client for an organization. The caller closes it."""
        return OpenAI(
            api_key=self._api_key, organization=organization, base_url=self.base_url, max_retries=0
        )

    def upload(self, organization: str, content: bytes) -> str:
        """Upload a batch file without Batchflow and return its id."""
        with self.sdk(organization) as client:
            return client.files.create(file=("given.jsonl", content), purpose="batch").id
