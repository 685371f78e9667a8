"""Commands that ask Redis about itself. Not every service that speaks its protocol answers them."""

from collections.abc import Mapping
from typing import Any

from batchflow.store.command import Command


def info() -> Command[Mapping[str, Any]]:
    """All sections of ``INFO``."""
    return Command("INFO", [], [], dict)


def config(pattern: str) -> Command[Mapping[str, str]]:
    """The settings whose names match a glob pattern."""
    return Command("CONFIG GET", [], [pattern], dict)


def eviction_policy() -> Command[tuple[int, str]]:
    """The memory limit in bytes, 0 for none, and the policy when it is reached."""
    return Command(
        "INFO",
        [],
        ["memory"],
        lambda raw: (int(raw.get("maxmemory", 0)), str(raw.get("maxmemory_policy", "noeviction"))),
    )
