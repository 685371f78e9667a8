"""Who alone may do something, as commands: leases, which run out by themselves."""

from batchflow.store import keys
from batchflow.store.command import Command


def acquire(what: str, token: str, *, ttl_s: float) -> Command[bool]:
    """Take a lease if nobody has it."""
    return Command("SET", [keys.lease(what)], [token, "NX", "PX", int(ttl_s * 1000)], bool)


def renew(what: str, token: str, *, ttl_s: float) -> Command[bool]:
    """Keep a lease; False if it is no longer ours."""
    return Command("renew", [keys.lease(what)], [token, int(ttl_s * 1000)], bool, is_script=True)


def release(what: str, token: str) -> Command[bool]:
    """Give a lease back."""
    return Command("release", [keys.lease(what)], [token], bool, is_script=True)
