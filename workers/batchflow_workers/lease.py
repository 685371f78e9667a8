"""Who is at work on a job: a lease in Redis, renewed while its owner lives."""

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
def lease(store: JobStore, what: str, ttl_s: float) -> Iterator[bool]:
    """Hold a lease while the block runs; yields False, at once, if somebody else has it.

    A thread renews it. An owner that is killed loses it after ``ttl_s``; one that hangs, an hour
    later: Celery ends processes that do, but no threads.
    """
    token = uuid.uuid4().hex
    if not _acquire(store, what, token, ttl_s):
        yield False
        return
    done = threading.Event()
    renewer = threading.Thread(
        target=_renew, args=(store, what, token, ttl_s, done), name=f"lease {what}", daemon=True
    )
    renewer.start()
    try:
        yield True
    finally:
        done.set()
        renewer.join()
        try:
            store.run(leases.release(what, token))
        except StoreUnavailable:
            logger.warning("Could not give back the lease of %s; it runs out by itself", what)


def _acquire(store: JobStore, what: str, token: str, ttl_s: float) -> bool:
    """Redis' client repeats a command whose answer was lost, and then finds the lease taken: by
    us, perhaps."""
    return store.run(leases.acquire(what, token, ttl_s=ttl_s)) or store.run(
        leases.renew(what, token, ttl_s=ttl_s)
    )


def _renew(store: JobStore, what: str, token: str, ttl_s: float, done: threading.Event) -> None:
    ends_at = time.monotonic() + STEP_LIMIT_S
    while not done.wait(ttl_s / 3):
        if time.monotonic() > ends_at:
            logger.warning("The lease of %s is given up: work on it takes too long", what)
            return
        try:
            if not store.run(leases.renew(what, token, ttl_s=ttl_s)):
                logger.warning("The lease of %s was lost while work went on", what)
                return
        except StoreUnavailable:
            logger.warning("Redis is away; the lease of %s is not renewed", what)
