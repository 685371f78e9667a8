"""Software: what is installed on this machine."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from batchflow.cli.checks.check import CheckContext, CheckResult, Level

_PACKAGES: Final = ("flyte-batchflow", "flytekit", "openai", "celery", "kombu", "redis")


async def versions(look: CheckContext) -> Iterable[CheckResult]:
    """Versions, for whoever reads a report of a bug."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return [CheckResult(Level.OK, name, number) for name, number in found.items()]
