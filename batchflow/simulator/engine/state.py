"""The state of a running emulator."""

import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine.batch_runner import BatchRunner
from batchflow.simulator.engine.batches import Batch, ScriptedEnd
from batchflow.simulator.engine.files import FileStore
from batchflow.simulator.engine.paged_collection import PagedCollection
from batchflow.simulator.engine.webhook_sender import WebhookSender
from batchflow.simulator.faults.outages import ActiveOutages


class SimulatorState:
    """The state behind the API. Use it only in the event loop that created it."""

    def __init__(self, config: SimulatorConfig, directory: Path) -> None:
        self._initial = config
        self.config = config
        self.files = FileStore(directory)
        self.webhooks = WebhookSender(seed=config.seed)
        self.runner = BatchRunner(self.files, on_end=self._publish_end)
        self._batches: dict[str, PagedCollection[Batch]] = {}
        self._initialize()

    def _initialize(self) -> None:
        self.config = self._initial
        self.outages = ActiveOutages(self.config.outages, seed=self.config.seed, now=time.time())
        #: The ends of the next batches, in order.
        self.scripted_ends: deque[ScriptedEnd] = deque()
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._created: Counter[str] = Counter()

    async def reset(self) -> None:
        """Delete everything and restore the initial settings."""
        await self.runner.stop_all()
        await self.webhooks.stop_all()
        self.files.clear()
        self._batches.clear()
        self._initialize()

    async def close(self) -> None:
        """Stop all tasks and threads, and close all connections."""
        await self.runner.close()
        await self.webhooks.close()

    def configure(self, config: SimulatorConfig, changed: set[str]) -> None:
        """Change the settings; existing batches keep theirs."""
        self.config = config
        if "outages" in changed:
            self.outages = ActiveOutages(config.outages, seed=config.seed, now=time.time())

    def batches_of(self, organization: str) -> PagedCollection[Batch]:
        """Return the batches of an organization."""
        return self._batches.setdefault(organization, PagedCollection())

    def all_batches(self) -> list[Batch]:
        """Return the batches of all organizations."""
        return [batch for batches in self._batches.values() for batch in batches]

    def find_batch(self, batch_id: str) -> Batch | None:
        """Find a batch of any organization."""
        found = (batches.get(batch_id) for batches in self._batches.values())
        return next((batch for batch in found if batch is not None), None)

    def add_batch(self, batch: Batch) -> None:
        """Add a batch and start it."""
        self.batches_of(batch.organization).add(batch)
        self._created["batches_created"] += 1
        self.runner.start(batch)

    def count_upload(self) -> None:
        """Count an uploaded file."""
        self._created["files_uploaded"] += 1

    def count_call(self, operation: str, outcome: str) -> None:
        """Count a call by its outcome: a status code, or what the client received instead."""
        self._calls[operation][outcome] += 1

    def stats(self) -> dict[str, Any]:
        """Return all counts since the start or the last reset."""
        return {
            "calls": {operation: dict(counts) for operation, counts in self._calls.items()},
            "batches_created": self._created["batches_created"],
            "files_uploaded": self._created["files_uploaded"],
            "batches": dict(Counter(batch.status for batch in self.all_batches())),
            "webhooks": dict(self.webhooks.counts),
        }

    def _publish_end(self, batch: Batch) -> None:
        self.webhooks.publish(f"batch.{batch.status}", batch.id, batch.organization, self.config)
