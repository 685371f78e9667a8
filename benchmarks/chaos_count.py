"""Count the errors of a run in the emulator's records and the downloaded files."""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.chaos_chains import TASKS, Chain
from tests.kit.flyte_backend import History

Json = dict[str, Any]

_TOKEN_LIMIT = "token_limit_exceeded"
#: The reports of the workers about a second batch, and about a job that kills them.
_SECOND_BATCH = "Cancelled a second batch of this job at OpenAI"
_DEADLY = "never returned"


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
    gets_unanswered: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            **{name: value + getattr(other, name) for name, value in asdict(self).items()}
        )

    @property
    def total(self) -> int:
        """The number of all errors."""
        return sum(asdict(self).values())


@dataclass
class Repaired:
    """What the workers have repaired; no errors."""

    #: Second batches of a job that were cancelled and reported, or belong to a cancelled attempt.
    batches_cancelled: int = 0
    #: Jobs whose input kills workers, and that were given up for that reason.
    given_up: int = 0


def count(
    chains: list[Chain],
    batches: list[Json],
    files: list[Json],
    logs: str,
    unanswered: list[str],
) -> tuple[ErrorCounts, Repaired, list[str]]:
    """Return the counts, and a line about each error. ``logs`` are those of the workers."""
    details = list(unanswered)
    bad, repaired = ErrorCounts(gets_unanswered=len(unanswered)), Repaired()
    for chain in chains:
        _count_chain(bad, repaired, details, chain)
    _count_batches(bad, repaired, details, batches, logs)
    _count_files(bad, details, files, chains)
    return bad, repaired, details


def _count_chain(bad: ErrorCounts, repaired: Repaired, details: list[str], chain: Chain) -> None:
    name = chain.plan.name
    for history in chain.histories:
        if chain.plan.kills_worker and _DEADLY in history.message:
            repaired.given_up += 1
        else:
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
    elif not history.ended:
        bad.lost += 1
        details.append(f"{about}: did not end; last seen: {history.seen[-1:]}")
    elif not history.succeeded:
        bad.failed += 1
        details.append(f"{about}: {history.phase}: {history.message}")
    if history.succeeded and history.retryable_failures:
        bad.failed += 1
        details.append(f"{about}: RETRYABLE_FAILED: {history.retryable_failures}")
    for change in history.regressions:
        bad.phases_back += 1
        details.append(f"{about}: {change}")


def _count_batches(
    bad: ErrorCounts, repaired: Repaired, details: list[str], batches: list[Json], logs: str
) -> None:
    """Each chain has one batch, besides those that failed for the token limit, and second ones that
    were cancelled and reported."""
    of_chain: defaultdict[str, list[Json]] = defaultdict(list)
    for batch in batches:
        if not _failed_for_tokens(batch):
            of_chain[(batch["metadata"] or {}).get("chain", "(none)")].append(batch)
    for name, group in of_chain.items():
        repairs = [batch for batch in group if _is_repaired(batch, group, logs)]
        repaired.batches_cancelled += len(repairs)
        if len(group) - len(repairs) > 1:
            bad.batches_doubled += len(group) - len(repairs) - 1
            made = ", ".join(
                f"{b['id']} {b['status']} made at {b['created_at']}, job "
                f"{b['metadata'].get('batchflow_job')}"
                for b in group
            )
            details.append(f"chain {name}: {len(group)} batches: {made}")


def _is_repaired(batch: Json, group: list[Json], logs: str) -> bool:
    """Whether a batch was cancelled: as a second one, which is reported, or with its attempt, which
    Flyte deleted and which a later generation of the job replaced."""
    if batch["status"] not in ("cancelling", "cancelled"):
        return False
    job_ids = {other["metadata"]["batchflow_job"] for other in group}
    reported = f"{_SECOND_BATCH}: {batch['id']}" in logs
    return reported or batch["metadata"]["batchflow_job"] != max(job_ids, key=_generation)


def _generation(job_id: str) -> int:
    _, _, number = job_id.removeprefix("bf-").partition("-")
    return int(number or 1)


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
