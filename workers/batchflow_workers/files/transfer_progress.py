"""How far a transfer has come, written to its job now and then."""

import time

from batchflow.jobs import Job
from batchflow.states import JobState
from batchflow_workers.runtime import Runtime

#: Redis hears of progress at most this often.
_EVERY_S = 1.0


class Progress:
    """Counts the bytes of one transfer."""

    def __init__(self, runtime: Runtime, job: Job, source: str) -> None:
        self._runtime = runtime
        self._job = job
        self._source = source
        self._done_bytes = 0
        self._total_bytes = 0
        self._told_at = 0.0

    def expect(self, count_bytes: int) -> None:
        """So many bytes are to be moved, besides those that were expected before."""
        self._total_bytes += count_bytes

    def add(self, count_bytes: int) -> None:
        """So many more bytes were moved."""
        self._done_bytes += count_bytes
        if time.monotonic() - self._told_at >= _EVERY_S:
            self.tell()

    def tell(self, **fields: str | int | None) -> None:
        """The transfer is under way; ``fields`` is what else is known."""
        self._told_at = time.monotonic()
        self._runtime.update(
            self._job.id, self._source, {**self.fields, **fields}, to=JobState.RUNNING
        )

    @property
    def fields(self) -> dict[str, int]:
        """How far it has come, in the record's terms."""
        total = {"bytes_total": self._total_bytes} if self._total_bytes else {}
        return {"bytes_done": self._done_bytes, **total}
