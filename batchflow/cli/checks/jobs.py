"""Jobs: whether somebody attends to those that are live."""

from collections.abc import Iterable
from typing import Final

from batchflow.cli.checks.findings import Finding, Level, Look
from batchflow.cli.text import count, duration
from batchflow.overview.snapshot import summarize
from batchflow.states import JobKind, JobState
from batchflow.store import index, records

#: A job that is due for longer is overdue: in sweep intervals, and at least in seconds.
_MISSED_SWEEPS: Final = 10
_OVERDUE_S: Final = 60.0
#: A batch is asked about at least so often, in poll intervals, and a little later if many are.
_SELDOM_POLLS: Final = 50
_STALE_S: Final = 120.0


async def overdue(look: Look) -> Iterable[Finding]:
    """Whether sweeps find what is due in time."""
    now_s = await look.store.run(records.time())
    due_s = await look.store.run(index.first_due())
    late_s = now_s - due_s if due_s is not None else 0.0
    limit_s = max(_OVERDUE_S, _MISSED_SWEEPS * look.settings.sweep_interval_s)
    if late_s < limit_s:
        return [Finding(Level.OK, "due jobs", "none is overdue")]
    seen = f"one should have been looked at {duration(late_s)} ago"
    advice = "Look at beat, and at the workers on the poll queue and their logs."
    return [Finding(Level.PROBLEM, "due jobs", seen, advice)]


async def polls(look: Look) -> Iterable[Finding]:
    """Whether OpenAI is asked about the batches that are there, and answers; and what waits."""
    fleet = await summarize(look.store)
    running = fleet.counts[JobKind.BATCH][JobState.RUNNING]
    findings = [
        Finding(Level.WARNING, "waiting", f"{wait.what}: {count(wait.jobs, 'job')}; {wait.message}")
        for wait in fleet.waits
        if wait.jobs
    ]
    asked = fleet.polled_at or fleet.oldest_batch_since
    if not running or asked is None:
        return [Finding(Level.OK, "polls", "no batch is at OpenAI"), *findings]
    stale_s = (fleet.at - asked).total_seconds()
    last = f"answered {duration(stale_s)} ago" if fleet.polled_at else "never answered"
    seen = f"{count(running, 'batch job')} running, last poll {last}"
    if stale_s < max(_STALE_S, _SELDOM_POLLS * look.settings.poll_interval_s):
        return [Finding(Level.OK, "polls", seen), *findings]
    advice = "Look at the credentials below, and at the logs of the workers on the poll queue."
    return [Finding(Level.PROBLEM, "polls", seen, advice), *findings]
