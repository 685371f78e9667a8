"""Jobs: whether somebody attends to those that are live."""

from collections.abc import Iterable

from batchflow.cli.checks.check import CheckContext, CheckResult, Level
from batchflow.cli.text import count, duration
from batchflow.overview.health import job_is_overdue, polls_have_stopped
from batchflow.overview.summary import summarize
from batchflow.states import JobKind, JobState
from batchflow.store import index, records


async def overdue(look: CheckContext) -> Iterable[CheckResult]:
    """Whether sweeps find what is due in time."""
    now_s = await look.store.run(records.time())
    due_s = await look.store.run(index.first_due())
    late_s = now_s - due_s if due_s is not None else 0.0
    if not job_is_overdue(late_s, look.settings.sweep_interval_s):
        return [CheckResult(Level.OK, "due jobs", "none is overdue")]
    seen = f"one should have been looked at {duration(late_s)} ago"
    advice = "Look at beat, and at the workers on the poll queue and their logs."
    return [CheckResult(Level.PROBLEM, "due jobs", seen, advice)]


async def polls(look: CheckContext) -> Iterable[CheckResult]:
    """Whether OpenAI is asked about the batches that are there, and answers; and what waits."""
    fleet = await summarize(look.store)
    running = fleet.counts[JobKind.BATCH][JobState.RUNNING]
    findings = [
        CheckResult(
            Level.WARNING, "waiting", f"{wait.what}: {count(wait.jobs, 'job')}; {wait.message}"
        )
        for wait in fleet.waits
        if wait.jobs
    ]
    if not running:
        return [CheckResult(Level.OK, "polls", "no batch is at OpenAI"), *findings]
    poll_age_s = fleet.age_s(fleet.polled_at)
    last = "never answered" if poll_age_s is None else f"answered {duration(poll_age_s)} ago"
    seen = f"{count(running, 'batch job')} running, last poll {last}"
    if not polls_have_stopped(fleet.unpolled_s, look.settings.poll_interval_s):
        return [CheckResult(Level.OK, "polls", seen), *findings]
    advice = "Look at the credentials below, and at the logs of the workers on the poll queue."
    return [CheckResult(Level.PROBLEM, "polls", seen, advice), *findings]
