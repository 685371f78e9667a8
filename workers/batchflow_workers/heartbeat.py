"""A worker's heartbeat in Redis.

Celery's own heartbeat triggers it, so it shows that the worker takes messages.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from batchflow.errors import StoreUnavailable
from batchflow.store import JobStore, heartbeats

logger = logging.getLogger(__name__)

#: Celery's own heartbeat comes every two seconds; fewer writes are enough.
_INTERVAL_S = 10.0
#: How long a worker that stops waits for its last heartbeat to be written.
_LAST_BEAT_S = 1.0


class Heartbeat:
    """Writes heartbeats from a thread, so that the worker does not wait for Redis."""

    def __init__(self, store: JobStore, queues: Callable[[], Sequence[str]]) -> None:
        self._store = store
        self._queues = queues
        self._beat_at = -_INTERVAL_S
        self._writer: threading.Thread | None = None

    def beat(self, worker: str) -> None:
        """Write a heartbeat, unless the last one was recent or is still being written."""
        if time.monotonic() - self._beat_at < _INTERVAL_S:
            return
        if self._writer and self._writer.is_alive():
            return
        self._beat_at = time.monotonic()
        self._writer = threading.Thread(
            target=self._write, args=(worker, self._queues()), name="heartbeat", daemon=True
        )
        self._writer.start()

    def stop(self, worker: str) -> None:
        """Remove a worker that stops."""
        if self._writer:
            self._writer.join(_LAST_BEAT_S)
        try:
            self._store.run(heartbeats.remove(worker, self._queues()))
        except StoreUnavailable as error:
            logger.info("This worker stays in Redis' list of workers for a while: %s", error)

    def _write(self, worker: str, queues: Sequence[str]) -> None:
        try:
            self._store.run(heartbeats.beat(worker, queues))
        except StoreUnavailable as error:
            logger.warning("No heartbeat: %s", error)
