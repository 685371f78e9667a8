"""Run Flyte tasks while all parts of the system fail repeatedly, and count the errors.

``python benchmarks/chaos.py --seed 1 --jobs 300`` runs the tasks through real processes. The
workers, Redis, beat, the connectors and OpenAI fail on a schedule that depends on the seed. The
same seed always gives the same jobs and faults, but their exact timing depends on the machine.
``--seeds 20`` runs the seeds 1 to 20. The exit code is 1 if there was any error.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.chaos_chains import Chain, Plan, make_plans, run_chain
from benchmarks.chaos_count import ErrorCounts, Repaired, count
from benchmarks.chaos_faults import Breaker, make_schedule
from benchmarks.chaos_stack import ChaosStack
from tests.kit.flyte_backend import FlyteBackend
from tests.kit.flyte_settings import DEADLINE_S, MAX_SYSTEM_FAILURES

#: How long faults are injected for 100 jobs, in seconds.
_FAULTS_S = 32.0
#: All chains start within this share of that time.
_STARTS_SHARE = 0.7
#: The time after the last fault in which all jobs must end, in seconds, for up to 100 jobs.
_DRAIN_S = 90.0


@dataclass
class Report:
    """The result of one seed."""

    seed: int
    jobs: int
    faults: dict[str, int]
    lasted_s: float
    bad: ErrorCounts
    repaired: Repaired
    details: list[str] = field(default_factory=list)
    attempts: int = 0
    failed_gets: int = 0
    batches: int = 0
    folder: str = ""


def run_seed(seed: int, jobs: int, folder: Path) -> Report:
    """Start all processes and tasks, inject faults, wait for the ends, and count the errors."""
    rng = random.Random(seed)
    faults_s = _FAULTS_S * max(0.5, jobs / 100)
    plans = make_plans(rng, seed, jobs, faults_s * _STARTS_SHARE)
    organizations = sorted({plan.organization for plan in plans})
    stack = ChaosStack(folder)
    try:
        stack.start()
        started_at = time.monotonic()
        backend = FlyteBackend(
            stack.client,
            resync_s=1.0,
            deadline_s=DEADLINE_S,
            max_system_failures=MAX_SYSTEM_FAILURES,
        )
        breaker = Breaker(stack, make_schedule(rng, faults_s), lambda: backend.tasks)
        for plan in plans:
            if plan.kills_worker:
                breaker.hunt(plan.path(stack.blobs), partial(_has_ended, backend, plan))
        with ThreadPoolExecutor(len(plans)) as pool:
            futures = [pool.submit(run_chain, plan, backend, stack.blobs) for plan in plans]
            breaker.start()
            breaker.join()
            backend.gives_up_at = time.monotonic() + _DRAIN_S * max(1.0, jobs / 100)
            chains = [future.result() for future in futures]
        lasted_s = time.monotonic() - started_at
        batches = [b for org in organizations for b in stack.emulator.batches(org)]
        files = [f for org in organizations for f in stack.emulator.files(org)]
        unanswered = breaker.unanswered
    finally:
        stack.stop()
    bad, repaired, details = count(chains, batches, files, stack.worker_logs(), unanswered)
    _write_journal(folder, breaker, chains)
    histories = [history for chain in chains for history in chain.histories]
    return Report(
        seed=seed,
        jobs=len(histories),
        faults=dict(sorted(breaker.injected.items())),
        lasted_s=round(lasted_s, 1),
        bad=bad,
        repaired=repaired,
        details=details,
        attempts=sum(history.attempts for history in histories),
        failed_gets=sum(len(history.failed_gets) for history in histories),
        batches=len(batches),
    )


def _has_ended(backend: FlyteBackend, plan: Plan) -> bool:
    """Whether the upload of a chain has ended."""
    return any(h.ended for h in backend.histories if h.name == f"{plan.name}/upload")


def _write_journal(folder: Path, breaker: Breaker, chains: list[Chain]) -> None:
    """Write all faults and phases in order of time, to find the cause of an error."""
    lines = list(breaker.journal)
    for chain in chains:
        for history in chain.histories:
            about = f"    {history.name} {history.job_id}"
            lines += [(at, f"{about}: {phase} {text}") for at, phase, text in history.seen]
    text = "".join(f"{_clock(at)} {line}\n" for at, line in sorted(lines))
    (folder / "journal.txt").write_text(text)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"


_COLUMNS = {
    "seed": "seed",
    "jobs": "jobs",
    "faults": "faults",
    "lasted_s": "seconds",
    "attempts": "attempts",
    "failed_gets": "failed gets",
    "lost": "lost",
    "failed": "failed",
    "batches_doubled": "extra batches",
    "files_doubled": "extra files",
    "lines_missing": "lines missing",
    "lines_doubled": "extra lines",
    "phases_back": "phases back",
    "forgotten": "forgotten",
    "gets_unanswered": "unanswered gets",
    "batches_cancelled": "batches cancelled",
    "given_up": "given up",
}


def _row(values: dict[str, object]) -> str:
    cells = [f"{values.get(name, '')!s:>{len(title)}}" for name, title in _COLUMNS.items()]
    return " | ".join(cells)


def _show(report: Report, jobs: int) -> None:
    counts = {**asdict(report.bad), **asdict(report.repaired)}
    values = {**asdict(report), **counts, "faults": sum(report.faults.values())}
    print(_row(values), flush=True)
    for line in report.details:
        print(f"    {line}")
    if report.bad.total:
        print(f"    logs:   {report.folder}")
        print(f"    repeat: {_repeat(report, jobs)}")


def _repeat(report: Report, jobs: int) -> str:
    return f"python benchmarks/chaos.py --seed {report.seed} --jobs {jobs} --keep"


def main() -> int:
    """Run the requested seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, run in sequence")
    parser.add_argument("--jobs", type=int, default=100, help="approximate number of jobs per seed")
    parser.add_argument("--json", type=Path, help="also write the reports to this file")
    parser.add_argument("--keep", action="store_true", help="keep the logs of all runs")
    options = parser.parse_args()

    print(" | ".join(_COLUMNS.values()), flush=True)
    reports: list[Report] = []
    for seed in range(options.seed, options.seed + options.seeds):
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        report = run_seed(seed, options.jobs, folder)
        report.folder = str(folder)
        reports.append(report)
        _show(report, options.jobs)
        if not report.bad.total and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return _summarize(reports, options)


def _summarize(reports: list[Report], options: argparse.Namespace) -> int:
    bad = sum((report.bad for report in reports), ErrorCounts())
    kinds: dict[str, int] = {}
    for report in reports:
        for kind, times in report.faults.items():
            kinds[kind] = kinds.get(kind, 0) + times
    totals = {
        "seed": "all",
        "jobs": sum(report.jobs for report in reports),
        "faults": sum(kinds.values()),
        "lasted_s": round(sum(report.lasted_s for report in reports), 1),
        "attempts": sum(report.attempts for report in reports),
        "failed_gets": sum(report.failed_gets for report in reports),
        **asdict(bad),
        "batches_cancelled": sum(report.repaired.batches_cancelled for report in reports),
        "given_up": sum(report.repaired.given_up for report in reports),
    }
    print(_row(totals))
    print("faults:", ", ".join(f"{kind} {times}" for kind, times in sorted(kinds.items())))
    for report in reports:
        if report.bad.total:
            print(f"repeat: {_repeat(report, options.jobs)}")
    if options.json:
        found = {"reports": [asdict(r) for r in reports], "totals": totals, "faults": kinds}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if bad.total else 0


if __name__ == "__main__":
    sys.exit(main())
