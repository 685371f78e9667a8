"""CPU time and memory of a process and its children."""

from pathlib import Path

import psutil


def cpu_s(pid: int) -> float:
    """CPU time of a process and its running children, in seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in family(pid))


def peak_bytes(pid: int) -> int:
    """The sum of the peak memory of a process and of its running children: Linux' VmHWM.

    Shared pages count once for each process, so the sum is more than the machine needs.
    """
    return sum(_bytes(process.pid, "status", "VmHWM") for process in family(pid))


def now_bytes(pid: int) -> int:
    """The sum of their current memory, counted in the same way."""
    return sum(_bytes(process.pid, "status", "VmRSS") for process in family(pid))


def shared_once_bytes(pid: int) -> int:
    """Their current memory with shared pages counted once: the sum of their Pss."""
    return sum(_bytes(process.pid, "smaps_rollup", "Pss") for process in family(pid))


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _bytes(pid: int, file: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text("utf-8").splitlines()
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024
