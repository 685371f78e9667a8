"""The lines in which jobs wait for OpenAI's capacity, as commands."""

from batchflow.jobs import Job
from batchflow.store import keys
from batchflow.store.command import Command


def join(line: str, job: Job) -> Command[bool]:
    """Wait for capacity, in the order in which the jobs were made."""
    score = job.created_at.timestamp()
    return Command(
        "join", [keys.waiting(line), keys.LINES], [job.id, score, line], bool, is_script=True
    )


def leave(line: str, job_id: str) -> Command[bool]:
    """Wait no longer; False if it did not."""
    return Command("leave", [keys.waiting(line), keys.LINES], [job_id, line], bool, is_script=True)


def first(line: str) -> Command[str | None]:
    """The job that has waited longest."""
    return Command("ZRANGE", [keys.waiting(line)], [0, 0], lambda raw: raw[0] if raw else None)


def position(line: str, job_id: str) -> Command[int]:
    """How many jobs are before this one."""
    return Command("ZRANK", [keys.waiting(line)], [job_id], lambda raw: int(raw or 0))


def names() -> Command[list[str]]:
    """The lines in which jobs wait."""
    return Command("SMEMBERS", [keys.LINES], [], sorted)


def length(line: str) -> Command[int]:
    """How many jobs wait in a line."""
    return Command("ZCARD", [keys.waiting(line)], [], int)
