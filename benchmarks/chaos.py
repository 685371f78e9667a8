"""Break everything, again and again, and count what came of it.

``python benchmarks/chaos.py --seed 1 --jobs 300`` runs Flyte's tasks through real processes while
workers, Redis, beat, connectors and OpenAI fail by a schedule that the seed decides. The same seed
gives the same jobs and faults; how they meet depends on the machine's clock, too. ``--seeds 20``
runs the seeds 1 to 20. It ends with 1 unless every bad count is 0.
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
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.chaos_chains import Chain, make_plans, run_chain
from benchmarks.chaos_count import ErrorCounts, count
from benchmarks.chaos_faults import Breaker, make_schedule
from benchmarks.chaos_stack import ChaosStack
from tests.kit.flyte_backend import FlyteBackend

#: Seconds for which things break, for 100 jobs.
_FAULTS_S = 16.0
#: Chains begin within this share of that time.
_STARTS_SHARE = 0.7
#: So long after the last fault everything must have ended.
_DRAIN_S = 90.0


@dataclass
class Report:
    """What one seed came to."""

    seed: int
    jobs: int
    faults: dict[str, int]
    lasted_s: float
    bad: ErrorCounts
    told: list[str] = field(default_factory=list)
    attempts: int = 0
    failed_gets: int = 0
    batches: int = 0
    folder: str = ""


def run_seed(seed: int, jobs: int, folder: Path) -> Report:
    """One run: start everything, break it, wait until all has ended, count."""
    rng = random.Random(seed)
    faults_s = _FAULTS_S * max(0.5, jobs / 100)
    plans = make_plans(rng, seed, jobs, faults_s * _STARTS_SHARE)
    organizations = sorted({plan.organization for plan in plans})
    stack = ChaosStack(folder)
    try:
        stack.start()
        begun_at = time.monotonic()
        breaker = Breaker(stack, make_schedule(rng, faults_s))
        backend = FlyteBackend(stack.client, resync_s=1.0)
        with ThreadPoolExecutor(len(plans)) as pool:
            futures = [pool.submit(run_chain, plan, backend, stack.blobs) for plan in plans]
            breaker.start()
            breaker.join()
            backend.gives_up_at = time.monotonic() + _DRAIN_S * max(1.0, jobs / 100)
            chains = [future.result() for future in futures]
        lasted_s = time.monotonic() - begun_at
        batches = [b for org in organizations for b in stack.emulator.batches(org)]
        files = [f for org in organizations for f in stack.emulator.files(org)]
    finally:
        stack.stop()
    bad, told = count(chains, batches, files)
    _write_journal(folder, breaker, chains)
    histories = [history for chain in chains for history in chain.histories]
    return Report(
        seed=seed,
        jobs=len(histories),
        faults=dict(sorted(breaker.injected.items())),
        lasted_s=round(lasted_s, 1),
        bad=bad,
        told=told,
        attempts=sum(history.attempts for history in histories),
        failed_gets=sum(len(history.failed_gets) for history in histories),
        batches=len(batches),
    )


def _write_journal(folder: Path, breaker: Breaker, chains: list[Chain]) -> None:
    """All that happened, in the order of time, for whoever looks for a cause."""
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
    "batches_doubled": "batches twice",
    "files_doubled": "files twice",
    "lines_missing": "lines missing",
    "lines_doubled": "lines twice",
    "phases_back": "phase back",
    "killed_by_flyte": "killed",
}


def _row(values: dict[str, object]) -> str:
    cells = [f"{values.get(name, '')!s:>{len(title)}}" for name, title in _COLUMNS.items()]
    return " | ".join(cells)


def _show(report: Report, jobs: int) -> None:
    values = {**asdict(report), **asdict(report.bad), "faults": sum(report.faults.values())}
    print(_row(values), flush=True)
    for line in report.told:
        print(f"    {line}")
    if report.bad.total:
        print(f"    its logs: {report.folder}")
        print(f"    again:    {_repeat(report, jobs)}")


def _repeat(report: Report, jobs: int) -> str:
    return f"python benchmarks/chaos.py --seed {report.seed} --jobs {jobs} --keep"


def main() -> int:
    """Run the seeds that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first, or only, seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after another")
    parser.add_argument("--jobs", type=int, default=100, help="jobs of each seed, roughly")
    parser.add_argument("--json", type=Path, help="write the reports here, too")
    parser.add_argument("--keep", action="store_true", help="keep the logs of good runs, too")
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
    return _sum_up(reports, options)


def _sum_up(reports: list[Report], options: argparse.Namespace) -> int:
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
