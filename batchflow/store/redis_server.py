"""What Redis says of itself, as commands. Not every service that speaks its protocol does."""

from collections.abc import Mapping
from typing import Any

from batchflow.store.command import Command


def info() -> Command[Mapping[str, Any]]:
    """All sections of ``INFO``."""
    return Command("INFO", [], [], dict)


def config(pattern: str) -> Command[Mapping[str, str]]:
    """The settings whose names match a glob pattern."""
    return Command("CONFIG GET", [], [pattern], dict)
