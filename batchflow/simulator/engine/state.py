"""The state of a running emulator."""

import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine.batch_runner import BatchRunner
from batchflow.simulator.engine.batches import Batch, NextEnd
from batchflow.simulator.engine.files import FileStore
from batchflow.simulator.engine.paged_collection import Collections
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
        self.batches = Collections[Batch]()
        self._initialize()

    def _initialize(self) -> None:
        self.config = self._initial
        self.outages = ActiveOutages(self.config.outages, seed=self.config.seed, now=time.time())
        #: The ends of the next batches, in order.
        self.scripted_ends: deque[NextEnd] = deque()
        #: Operation -> outcome, a status code or what the client received instead -> calls.
        self.calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.files_uploaded = self.batches_created = 0

    async def reset(self) -> None:
        """Delete everything and restore the initial settings."""
        await self.runner.stop_all()
        await self.webhooks.stop_all()
        self.files.clear()
        self.batches.clear()
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

    def add_batch(self, batch: Batch) -> None:
        """Add a batch and start it."""
        self.batches.of(batch.organization).add(batch)
        self.batches_created += 1
        self.runner.start(batch)

    def stats(self) -> dict[str, Any]:
        """Return all counts since the start or the last reset."""
        return {
            "calls": self.calls,
            "batches_created": self.batches_created,
            "files_uploaded": self.files_uploaded,
            "batches": Counter(batch.status for batch in self.batches.all()),
            "webhooks": self.webhooks.counts,
        }

    def _publish_end(self, batch: Batch) -> None:
        self.webhooks.publish(f"batch.{batch.status}", batch.id, batch.organization, self.config)
