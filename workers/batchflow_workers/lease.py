"""Leases: exclusive rights to work on something, renewed while their owners live."""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from batchflow.errors import StoreUnavailable
from batchflow.queue import STEP_LIMIT_S
from batchflow.store import JobStore, leases

logger = logging.getLogger(__name__)


@contextmanager
def lease(store: JobStore, name: str, ttl_s: float) -> Iterator[bool]:
    """Hold a lease while the block runs; yields False, at once, if another worker holds it.

    A thread renews it. A worker that is killed loses it after ``ttl_s``. One that hangs loses it
    after ``STEP_LIMIT_S``: Celery ends processes that hang, but not threads.
    """
    token = uuid.uuid4().hex
    if not _acquire(store, name, token, ttl_s):
        yield False
        return
    done = threading.Event()
    renewer = threading.Thread(
        target=_renew, args=(store, name, token, ttl_s, done), name=f"lease {name}", daemon=True
    )
    renewer.start()
    try:
        yield True
    finally:
        done.set()
        renewer.join()
        try:
            store.run(leases.release(name, token))
        except StoreUnavailable:
            logger.warning("Could not release the lease of %s; it expires by itself", name)


def _acquire(store: JobStore, name: str, token: str, ttl_s: float) -> bool:
    """Acquire a lease, or find that it is ours: redis-py repeats a command whose reply was lost."""
    return store.run(leases.acquire(name, token, ttl_s=ttl_s)) or store.run(
        leases.renew(name, token, ttl_s=ttl_s)
    )


def _renew(store: JobStore, name: str, token: str, ttl_s: float, done: threading.Event) -> None:
    ends_at = time.monotonic() + STEP_LIMIT_S
    while not done.wait(ttl_s / 3):
        if time.monotonic() > ends_at:
            logger.warning("The lease of %s is no longer renewed: the work takes too long", name)
            return
        try:
            if not store.run(leases.renew(name, token, ttl_s=ttl_s)):
                logger.warning("The lease of %s was lost during the work", name)
                return
        except StoreUnavailable:
            logger.warning("Redis is unavailable; the lease of %s is not renewed", name)
