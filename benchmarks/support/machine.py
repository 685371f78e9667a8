"""The machine on which a figure was measured."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

#: Packages whose versions affect the figures.
_PACKAGES = (
    "flyte-batchflow",
    "flytekitplugins-openai",
    "flytekit",
    "grpcio",
    "openai",
    "celery",
    "redis",
    "hiredis",
    "orjson",
    "pydantic",
)


def describe() -> dict[str, str]:
    """Cores, memory and versions."""
    found = {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "redis-server": _redis_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _redis_version() -> str:
    server = shutil.which("redis-server")
    if server is None:
        return "none"
    run = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    return run.stdout.partition("v=")[2].partition(" ")[0]
