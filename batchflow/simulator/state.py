"""All that a running emulator knows."""

import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

from batchflow.simulator.batches import Batch, Fate
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.faults import Faults
from batchflow.simulator.files import FileStore
from batchflow.simulator.lifecycle import Lives
from batchflow.simulator.shelf import Shelf
from batchflow.simulator.webhooks import Webhooks


class Simulator:
    """The state behind the API. It belongs to the event loop that it was made in."""

    def __init__(self, config: SimulatorConfig, directory: Path) -> None:
        self._initial = config
        self.config = config
        self.files = FileStore(directory)
        self.webhooks = Webhooks(seed=config.seed)
        self.lives = Lives(self.files, on_end=self._announce)
        self._batches: dict[str, Shelf[Batch]] = {}
        self._begin()

    def _begin(self) -> None:
        self.config = self._initial
        self.faults = Faults(self.config.outages, seed=self.config.seed, now=time.time())
        #: What the next batches come to, in order.
        self.fates: deque[Fate] = deque()
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._created: Counter[str] = Counter()

    async def reset(self) -> None:
        """Forget everything, and go back to the settings of the start."""
        await self.lives.stop_all()
        await self.webhooks.stop_all()
        self.files.clear()
        self._batches.clear()
        self._begin()

    async def close(self) -> None:
        """End all tasks, threads and connections."""
        await self.lives.close()
        await self.webhooks.close()

    def configure(self, config: SimulatorConfig, changed: set[str]) -> None:
        """Use other settings from now on; batches that live keep theirs."""
        self.config = config
        if "outages" in changed:
            self.faults = Faults(config.outages, seed=config.seed, now=time.time())

    def batches_of(self, organization: str) -> Shelf[Batch]:
        """The batches that an organization sees."""
        return self._batches.setdefault(organization, Shelf())

    def all_batches(self) -> list[Batch]:
        """The batches of all organizations."""
        return [batch for shelf in self._batches.values() for batch in shelf]

    def find_batch(self, batch_id: str) -> Batch | None:
        """A batch of any organization."""
        found = (shelf.get(batch_id) for shelf in self._batches.values())
        return next((batch for batch in found if batch is not None), None)

    def add_batch(self, batch: Batch) -> None:
        """Let a new batch live."""
        self.batches_of(batch.organization).add(batch)
        self._created["batches_created"] += 1
        self.lives.start(batch)

    def count_upload(self) -> None:
        """Count an uploaded file."""
        self._created["files_uploaded"] += 1

    def count_call(self, operation: str, outcome: str) -> None:
        """Count an answered call by what the client got: a status code, or what it was instead."""
        self._calls[operation][outcome] += 1

    def stats(self) -> dict[str, Any]:
        """All counts since the start or the last reset."""
        return {
            "calls": {operation: dict(counts) for operation, counts in self._calls.items()},
            "batches_created": self._created["batches_created"],
            "files_uploaded": self._created["files_uploaded"],
            "batches": dict(Counter(batch.status for batch in self.all_batches())),
            "webhooks": dict(self.webhooks.counts),
        }

    def _announce(self, batch: Batch) -> None:
        self.webhooks.publish(f"batch.{batch.status}", batch.id, batch.organization, self.config)
