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
        self._told_at = 0.0

    def start(self, message: str) -> None:
        """The transfer is under way."""
        self._tell(message=message)

    def add(self, count_bytes: int) -> None:
        """So many more bytes were moved."""
        self._done_bytes += count_bytes
        if time.monotonic() - self._told_at >= _EVERY_S:
            self._tell()

    def finish(self, message: str, **fields: str | int | None) -> None:
        """All bytes were moved; ``fields`` is what else was learned."""
        self._tell(message=message, bytes_total=self._done_bytes, **fields)

    def _tell(self, **fields: str | int | None) -> None:
        self._told_at = time.monotonic()
        self._runtime.update(
            self._job.id,
            self._source,
            {"bytes_done": self._done_bytes, **fields},
            to=JobState.RUNNING,
        )
