"""Commands for leases, which expire by themselves.

redis-py's ``Lock`` is not used: it forgets its token when the reply to its SET is lost, and would
then wait for a lease that it holds itself.
"""

from batchflow.store import keys
from batchflow.store.command import Command


def acquire(name: str, token: str, *, ttl_s: float) -> Command[bool]:
    """Acquire a lease if it is free."""
    return Command("SET", [keys.lease(name)], [token, "NX", "PX", int(ttl_s * 1000)], bool)


def renew(name: str, token: str, *, ttl_s: float) -> Command[bool]:
    """Extend a lease; False if it is no longer held with this token."""
    return Command("renew", [keys.lease(name)], [token, int(ttl_s * 1000)], bool)


def release(name: str, token: str) -> Command[bool]:
    """Release a lease that is held with this token."""
    return Command("release", [keys.lease(name)], [token], bool)
