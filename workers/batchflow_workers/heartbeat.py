"""A worker's sign of life. It follows Celery's own, and so tells that messages are being taken."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from batchflow.errors import StoreUnavailable
from batchflow.store import JobStore, heartbeats

logger = logging.getLogger(__name__)

#: Celery beats every two seconds; so often is enough.
_EVERY_S = 10.0
#: How long a worker that ends waits for its last sign to be through.
_LAST_S = 1.0


class Heartbeat:
    """Tells Redis that a worker lives, from a thread: the worker waits for nothing."""

    def __init__(self, store: JobStore, queues: Callable[[], Sequence[str]]) -> None:
        self._store = store
        self._queues = queues
        self._told_at = -_EVERY_S
        self._telling: threading.Thread | None = None

    def beat(self, worker: str) -> None:
        """The worker lives. Told at most every ten seconds, and once at a time."""
        if time.monotonic() - self._told_at < _EVERY_S:
            return
        if self._telling and self._telling.is_alive():
            return
        self._told_at = time.monotonic()
        self._telling = threading.Thread(
            target=self._tell, args=(worker, self._queues()), name="heartbeat", daemon=True
        )
        self._telling.start()

    def end(self, worker: str) -> None:
        """The worker ends; nobody needs to miss it."""
        if self._telling:
            self._telling.join(_LAST_S)
        try:
            self._store.run(heartbeats.remove(worker, self._queues()))
        except StoreUnavailable as error:
            logger.info("Redis is not told that this worker ends: %s", error)

    def _tell(self, worker: str, queues: Sequence[str]) -> None:
        try:
            self._store.run(heartbeats.beat(worker, queues))
        except StoreUnavailable as error:
            logger.warning("No sign of life: %s", error)
