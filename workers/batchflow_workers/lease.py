"""Leases: exclusive rights to work on something, renewed while their owners live."""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from batchflow.errors import LeaseLost, StoreUnavailable
from batchflow.queue import STEP_LIMIT_S
from batchflow.store import JobStore, leases

logger = logging.getLogger(__name__)


class Lease:
    """A lease that this process has acquired."""

    def __init__(self, store: JobStore, name: str, ttl_s: float) -> None:
        self._store = store
        self._name = name
        self._ttl_s = ttl_s
        self._token = uuid.uuid4().hex
        #: Until when the lease is certainly held, by the monotonic clock.
        self._held_until = 0.0

    def require(self) -> None:
        """Raise LeaseLost if another process may have the lease by now, because this one stood
        still or could not reach Redis."""
        if time.monotonic() >= self._held_until:
            raise LeaseLost(f"The lease of {self._name} was lost during the work")

    def acquire(self) -> bool:
        """Acquire it, or find that it is ours: redis-py repeats a command whose reply was lost."""
        sent_at = time.monotonic()
        acquired = self._store.run(
            leases.acquire(self._name, self._token, ttl_s=self._ttl_s)
        ) or self._store.run(leases.renew(self._name, self._token, ttl_s=self._ttl_s))
        return self._extend(acquired, sent_at)

    def keep(self, done: threading.Event) -> None:
        """Renew it until the work is done."""
        ends_at = time.monotonic() + STEP_LIMIT_S
        while not done.wait(self._ttl_s / 3):
            if time.monotonic() > ends_at:
                logger.warning(
                    "The lease of %s is no longer renewed: the work takes too long", self._name
                )
                return
            try:
                if not self._renew():
                    logger.warning("The lease of %s was lost during the work", self._name)
                    return
            except StoreUnavailable:
                logger.warning("Redis is unavailable; the lease of %s is not renewed", self._name)

    def release(self) -> None:
        """Release it, or let it expire."""
        try:
            self._store.run(leases.release(self._name, self._token))
        except StoreUnavailable:
            logger.warning("Could not release the lease of %s; it expires by itself", self._name)

    def _renew(self) -> bool:
        sent_at = time.monotonic()
        renewed = self._store.run(leases.renew(self._name, self._token, ttl_s=self._ttl_s))
        return self._extend(renewed, sent_at)

    def _extend(self, held: bool, sent_at: float) -> bool:
        # Redis counts from when it receives the request, which is later.
        self._held_until = sent_at + self._ttl_s if held else 0.0
        return held


@contextmanager
def lease(store: JobStore, name: str, ttl_s: float) -> Iterator[Lease | None]:
    """Hold a lease while the block runs; yields None, at once, if another worker holds it.

    A thread renews it. A worker that is killed loses it after ``ttl_s``. One that hangs loses it
    after ``STEP_LIMIT_S``: Celery ends processes that hang, but not threads.
    """
    held = Lease(store, name, ttl_s)
    if not held.acquire():
        yield None
        return
    done = threading.Event()
    renewer = threading.Thread(target=held.keep, args=(done,), name=f"lease {name}", daemon=True)
    renewer.start()
    try:
        yield held
    finally:
        done.set()
        renewer.join()
        held.release()
