"""Which processor cores what runs on, so that the measured process does not share its core."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def _available() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


#: Fixed at the start, because `on` changes what this process may use.
_ALL = _available()


def apart() -> bool:
    """Whether there are cores enough to keep what is measured and the rest apart."""
    return len(_ALL) > 1


@contextmanager
def on(*, measured: bool) -> Iterator[None]:
    """What is started in this block runs on the first core, if it is what is measured, else on
    the others. With one core, or another system than Linux, all share what there is."""
    if not apart():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _ALL[:1] if measured else _ALL[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def told() -> str:
    """How it is done here, for the notes of a result."""
    if not apart():
        return "Client and servers shared the machine's only core."
    return "The measured process had a core for itself; client, Redis and stand-ins had the rest."
