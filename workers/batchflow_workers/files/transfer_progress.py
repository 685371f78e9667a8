"""The progress of a transfer, written to its job's record once a second."""

import time

from batchflow.jobs import Job
from batchflow.states import JobState
from batchflow.store import records
from batchflow_workers.runtime import Runtime

#: The shortest time between two writes to Redis.
_INTERVAL_S = 1.0


class TransferProgress:
    """Counts the bytes that a step has transferred."""

    def __init__(self, runtime: Runtime, job: Job, source: str) -> None:
        self._runtime = runtime
        self._job = job
        self._source = source
        self._done_bytes = 0
        self._total_bytes = 0
        self._written_at = 0.0

    def expect(self, count_bytes: int) -> None:
        """Add to the bytes that are to be transferred."""
        self._total_bytes += count_bytes

    def add(self, count_bytes: int) -> None:
        """Add to the bytes that were transferred."""
        self._done_bytes += count_bytes
        if time.monotonic() - self._written_at >= _INTERVAL_S:
            self.write()

    def write(self, **fields: records.Value) -> None:
        """Write the progress, and other fields, of a transfer that is running."""
        self._written_at = time.monotonic()
        self._runtime.update(
            self._job.id, self._source, {**self.fields, **fields}, to=JobState.RUNNING
        )

    @property
    def fields(self) -> dict[str, int]:
        """The fields of the record."""
        total = {"bytes_total": self._total_bytes} if self._total_bytes else {}
        return {"bytes_done": self._done_bytes, **total}
