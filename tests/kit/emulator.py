"""The emulator as tests see it: its control API, and OpenAI's SDK for a look from outside."""

from typing import Any

import httpx2
from openai import OpenAI

Json = dict[str, Any]


class Emulator:
    """Orders to a running emulator, and what it has. Each organization sees only its own."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._http = httpx2.Client(base_url=base_url.removesuffix("/v1"), timeout=15)
        self._initial = self._ask("GET", "/config")
        self._changed: set[str] = set()

    def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        answer = self._http.request(method, f"/simulator{path}", json=body)
        answer.raise_for_status()
        found: Json = answer.json()
        return found

    def close(self) -> None:
        """Give back the connections."""
        self._http.close()

    def heal(self) -> None:
        """Undo what tests have set; the batches and files stay."""
        self.end_outages()
        if self._changed:
            self.configure(**{name: self._initial[name] for name in self._changed})
            self._changed.clear()

    def configure(self, **settings: Any) -> None:
        """Change settings, for the batches that are made from now on."""
        self._changed |= set(settings)
        self._ask("PATCH", "/config", settings)

    def outage(self, **outage: Any) -> None:
        """Let something go wrong."""
        self._ask("POST", "/outage", outage)

    def end_outages(self) -> None:
        """Everything works again."""
        self._ask("DELETE", "/outage")

    def next(self, status: str, **order: Any) -> None:
        """What the next batch comes to."""
        self._ask("POST", "/next", {"status": status, **order})

    def end(self, batch_id: str, status: str = "completed", **order: Any) -> None:
        """End a live batch now."""
        self._ask("POST", f"/batches/{batch_id}/end", {"status": status, **order})

    def calls(self, operation: str) -> int:
        """How often an operation was answered, well or badly, by anybody."""
        return sum(self._ask("GET", "/stats")["calls"].get(operation, {}).values())

    def batches(self, organization: str) -> list[Json]:
        """The batches of an organization, oldest first."""
        return self._of(organization, "/batches")

    def files(self, organization: str) -> list[Json]:
        """The files of an organization, oldest first."""
        return self._of(organization, "/files")

    def uploads(self, organization: str) -> list[Json]:
        """The files that an organization has uploaded."""
        return [file for file in self.files(organization) if file["purpose"] == "batch"]

    def _of(self, organization: str, path: str) -> list[Json]:
        everything = self._ask("GET", path)["data"]
        return [entry for entry in everything if entry["organization"] == organization]

    def sdk(self, organization: str) -> OpenAI:
        """OpenAI's client for an organization. The caller closes it."""
        return OpenAI(
            api_key=self._api_key,
            organization=organization,
            base_url=self.base_url,
            max_retries=0,
        )

    def upload(self, organization: str, content: bytes) -> str:
        """Put a batch file there, past Batchflow; returns its id."""
        with self.sdk(organization) as client:
            return client.files.create(file=("given.jsonl", content), purpose="batch").id
