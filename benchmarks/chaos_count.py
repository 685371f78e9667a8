"""Count the errors of a run in the emulator's records and the downloaded files."""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.chaos_chains import TASKS, Chain
from tests.kit.flyte_backend import History

Json = dict[str, Any]

_TOKEN_LIMIT = "token_limit_exceeded"


@dataclass
class ErrorCounts:
    """The number of errors by kind; all must be 0."""

    lost: int = 0
    failed: int = 0
    batches_doubled: int = 0
    files_doubled: int = 0
    lines_missing: int = 0
    lines_doubled: int = 0
    phases_back: int = 0
    forgotten: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            **{name: value + getattr(other, name) for name, value in asdict(self).items()}
        )

    @property
    def total(self) -> int:
        """The number of all errors."""
        return sum(asdict(self).values())


def count(
    chains: list[Chain], batches: list[Json], files: list[Json]
) -> tuple[ErrorCounts, list[str]]:
    """Return the counts, and a line about each error."""
    details: list[str] = []
    bad = ErrorCounts()
    for chain in chains:
        _count_chain(bad, details, chain)
    _count_batches(bad, details, batches)
    _count_files(bad, details, files, chains)
    return bad, details


def _count_chain(bad: ErrorCounts, details: list[str], chain: Chain) -> None:
    name = chain.plan.name
    for history in chain.histories:
        _count_history(bad, details, history)
    if chain.error:
        bad.lost += TASKS - len(chain.histories)
        details.append(f"{name}: {chain.error}")
    bad.lines_missing += len(chain.missing)
    bad.lines_doubled += len(chain.doubled)
    for what, lines in (("missing", chain.missing), ("doubled", chain.doubled)):
        if lines:
            details.append(f"{name}: lines {what}: {', '.join(lines)}")


def _count_history(bad: ErrorCounts, details: list[str], history: History) -> None:
    about = f"{history.name} ({history.job_id})"
    if history.is_forgotten:
        bad.forgotten += 1
        details.append(f"{about}: Flyte stopped asking: {history.failed_gets}")
    elif history.phase == "UNFINISHED":
        bad.lost += 1
        details.append(f"{about}: did not end; last seen: {history.seen[-1:]}")
    elif not history.succeeded:
        bad.failed += 1
        details.append(f"{about}: {history.phase}: {history.message}")
    for message in history.retryable_failures:
        bad.failed += 1
        details.append(f"{about}: RETRYABLE_FAILED: {message}")
    for change in history.regressions:
        bad.phases_back += 1
        details.append(f"{about}: {change}")


def _count_batches(bad: ErrorCounts, details: list[str], batches: list[Json]) -> None:
    """Each job and each chain has one batch, besides those that failed for the token limit."""
    of_job: defaultdict[str, list[Json]] = defaultdict(list)
    of_chain: defaultdict[str, list[Json]] = defaultdict(list)
    for batch in batches:
        metadata = batch["metadata"] or {}
        if _failed_for_tokens(batch):
            continue
        of_job[metadata.get("batchflow_job", "(none)")].append(batch)
        if batch["status"] != "failed":
            of_chain[metadata.get("chain", "(none)")].append(batch)
    for by, groups in (("job", of_job), ("chain", of_chain)):
        for name, group in groups.items():
            if len(group) == 1:
                continue
            if by == "job" or len({b["metadata"]["batchflow_job"] for b in group}) > 1:
                bad.batches_doubled += len(group) - 1
            made = ", ".join(
                f"{b['id']} {b['status']} made at {b['created_at']}, job "
                f"{b['metadata'].get('batchflow_job')}"
                for b in group
            )
            details.append(f"{by} {name}: {len(group)} batches: {made}")


def _failed_for_tokens(batch: Json) -> bool:
    errors = (batch["errors"] or {}).get("data", [])
    return batch["status"] == "failed" and any(e["code"] == _TOKEN_LIMIT for e in errors)


def _count_files(
    bad: ErrorCounts, details: list[str], files: list[Json], chains: list[Chain]
) -> None:
    uploads = [file for file in files if file["purpose"] == "batch"]
    for name, times in Counter(file["filename"] for file in uploads).items():
        if times > 1:
            bad.files_doubled += times - 1
            details.append(f"file {name}: uploaded {times} times")
    # Under another name is twice, too.
    more = len({file["filename"] for file in uploads}) - len(chains)
    if more > 0:
        bad.files_doubled += more
        details.append(f"{more} more files than chains")
