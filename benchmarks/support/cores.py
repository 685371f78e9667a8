"""Processor affinity: the measured process does not share its core."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def _available() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


#: Read once, because `on` changes it.
_ALL = _available()


def separable() -> bool:
    """Whether there are enough cores to reserve one for the measured process."""
    return len(_ALL) > 1


@contextmanager
def on(*, measured: bool) -> Iterator[None]:
    """Start processes in this block on the first core if they are measured, else on the others.

    On a machine with one core, and on a system other than Linux, all processes share all cores.
    """
    if not separable():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _ALL[:1] if measured else _ALL[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def note() -> str:
    """The note about cores for a result."""
    if not separable():
        return "Clients and servers shared the machine's only core."
    return "The measured process had a core to itself; clients, Redis and stubs shared the others."
