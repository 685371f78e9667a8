"""What can be done about a job's record, as commands: the only place where a rule meets Redis."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from batchflow.jobs import Job, JobRequest, JobStatus
from batchflow.states import LIVE, JobKind, JobState, Stage, may_follow
from batchflow.store import keys
from batchflow.store.command import Command

logger = logging.getLogger(__name__)

#: What a field can be set to; None removes it.
Value = str | int | float | None

#: See :func:`update`.
NO_BATCH = "none"

#: A store is young for so long. Until then Flyte has asked about all that an older one had held.
_YOUNG_S = 900

#: The message of a job whose record was lost and is being rebuilt.
REBUILDING = "Redis lost this job's record; Batchflow is searching for its batch or file at OpenAI"


class UpdateOutcome(StrEnum):
    """What became of a change."""

    APPLIED = "applied"
    #: An observation older than what is known; only ``checked_at`` moved.
    STALE = "stale"
    #: The state does not allow it; nothing changed.
    REFUSED = "refused"
    #: There is no such record.
    MISSING = "missing"


@dataclass(frozen=True)
class Updated:
    """The answer to :func:`update`."""

    outcome: UpdateOutcome
    state: JobState | None
    cancel_requested: bool

    @classmethod
    def parse(cls, raw: Sequence[str]) -> "Updated":
        """From the reply of update.lua or requeue.lua."""
        return cls(UpdateOutcome(raw[0]), JobState(raw[1]) if raw[1] else None, bool(raw[2]))


class Begun(StrEnum):
    """The answer to :func:`begin`."""

    BEGUN = "begun"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    MISSING = "missing"


class Cancelled(StrEnum):
    """The answer to :func:`cancel`."""

    #: It ended at once.
    CANCELLED = "cancelled"
    #: A worker cancels it at OpenAI.
    REQUESTED = "requested"
    #: It had ended before.
    REFUSED = "refused"
    MISSING = "missing"


@dataclass(frozen=True)
class Created:
    """The answer to :func:`create`: the job, None if its record can't be read, and whether it is
    new."""

    job: Job | None
    new: bool


def create(
    job_request: JobRequest, *, due_in_s: float, source: str = "create", rebuilt: bool = False
) -> Command[Created]:
    """Record a job, or find the one that has its id.

    A remade record, of a job that Redis forgot, says that something may be at OpenAI already,
    and shows RUNNING, because Flyte's phase must not go back. So does, but for the phase, the new
    record of a later attempt, and any in a store that is young because it may have been emptied:
    the job may have been recorded, done, and forgotten.
    """
    fields = job_request.record()
    state = JobState.QUEUED
    if rebuilt:
        state = JobState.RUNNING
        fields |= {
            "tries": "1",
            "stage": str(int(Stage.IN_PROGRESS)),
            "message": REBUILDING,
        }
    elif job_request.attempt and job_request.generation == 1:
        fields["tries"] = "1"
    return Command(
        "create",
        [*job_keys(job_request.job_id), keys.BORN, keys.CREDENTIALS],
        [
            job_request.job_id,
            state,
            due_in_s,
            keys.MAX_EVENTS,
            source,
            _YOUNG_S if job_request.execution else 0,
            job_request.spec.credential.model_dump_json(),
            *_flat(fields),
        ],
        lambda raw: Created(_job(job_request.job_id, _pairs(raw[1])), bool(raw[0])),
        is_script=True,
    )


def get(job_id: str) -> Command[Job | None]:
    """Read a job's record; None if there is none, or none that this code can read."""
    return Command(
        "HGETALL", [keys.job(job_id)], [], lambda raw: _job(job_id, raw) if raw else None
    )


def get_fields(job_id: str, fields: Sequence[str]) -> Command[list[str | None]]:
    """Some fields of a job's record; None for each that it doesn't have."""
    return Command("HMGET", [keys.job(job_id)], [*fields], list)


def job_statuses(job_ids: Sequence[str]) -> Command[list[JobStatus | None]]:
    """Read what Flyte is told of some jobs; None for one that has no record, or none that can be
    read."""
    return Command(
        "job_statuses",
        [keys.job(job_id) for job_id in job_ids],
        JobStatus._fields,
        lambda raw: [_job_status(values) for values in raw],
        is_script=True,
    )


def update(
    job_id: str,
    *,
    source: str,
    to: JobState | None = None,
    stage: Stage | None = None,
    of_batch: str = "",
    due_in_s: float | None = None,
    fields: Mapping[str, Value] | None = None,
) -> Command[Updated]:
    """Change a live job.

    ``stage`` says that the fields were observed at OpenAI, and how far the batch was then; an
    observation older than what is known is dropped. ``of_batch`` says which batch the fields are
    about: if the job has another one by now, or with NO_BATCH, has one already, they are as stale.
    Counts only grow. None removes a field.
    """
    fields = fields or {}
    made_at_openai = fields.get("batch_id") or fields.get("input_file_id")
    allowed = LIVE if to is None else may_follow(to)
    return Command(
        "update",
        [*job_keys(job_id), *([keys.openai(str(made_at_openai))] if made_at_openai else [])],
        [
            job_id,
            ",".join(sorted(allowed)),
            to or "",
            int(to is not None and to.terminal),
            "" if stage is None else int(stage),
            "" if due_in_s is None else due_in_s,
            keys.OPENAI_TTL_S,
            keys.MAX_EVENTS,
            source,
            of_batch,
            *_flat({name: "" if value is None else str(value) for name, value in fields.items()}),
        ],
        lambda raw: Updated(
            UpdateOutcome(raw[0]), JobState(raw[1]) if raw[1] else None, bool(raw[2])
        ),
        is_script=True,
    )


def begin(job_id: str, *, tries: int | None = None) -> Command[tuple[Begun, int]]:
    """Ask to send a request whose outcome could stay unknown; also answers which try it is.

    ``tries`` is what the record said when it was read. If another worker has begun since then,
    because this one stood still for longer than its lease, this is refused.
    """
    return Command(
        "begin",
        [keys.job(job_id)],
        [",".join(sorted(LIVE)), "" if tries is None else tries],
        lambda raw: (Begun(raw[0]), int(raw[1])),
        is_script=True,
    )


def cancel(job_id: str, *, message: str, source: str) -> Command[Cancelled]:
    """Cancel a job: at once, or by way of OpenAI if its batch may be there."""
    return Command(
        "cancel",
        job_keys(job_id),
        [
            job_id,
            ",".join(sorted(LIVE)),
            JobState.CANCELLED,
            JobKind.BATCH,
            message,
            keys.MAX_EVENTS,
            source,
        ],
        lambda raw: Cancelled(raw[0]),
        is_script=True,
    )


def claim_due(limit: int, *, hold_s: float) -> Command[list[str]]:
    """Take up to ``limit`` jobs that are due; for ``hold_s`` seconds nobody else gets them."""
    return Command("claim", [keys.DUE], [limit, hold_s], list, is_script=True)


def purge(job_id: str, *, retention_s: float) -> Command[bool]:
    """Forget a job whose end is longer ago than the retention time."""
    return Command(
        "purge",
        job_keys(job_id),
        [job_id, ",".join(sorted(LIVE)), retention_s],
        bool,
        is_script=True,
    )


def find_job(openai_id: str) -> Command[str | None]:
    """The id of the job that made a batch or uploaded a file at OpenAI."""
    return Command("GET", [keys.openai(openai_id)], [], lambda raw: raw)


def annotate(job_id: str, fields: Mapping[str, str]) -> Command[bool]:
    """Add to the record of a job, live or ended, what says nothing about its state; False if
    there is no record."""
    return Command("annotate", [keys.job(job_id)], _flat(fields), bool, is_script=True)


def live(job_ids: Sequence[str]) -> Command[list[bool]]:
    """Which of these jobs are live: those that will be due."""
    return Command(
        "ZMSCORE", [keys.DUE], [*job_ids], lambda raw: [score is not None for score in raw]
    )


def time() -> Command[float]:
    """Redis' clock, epoch seconds."""
    return Command("TIME", [], [], lambda raw: float(raw[0]) + float(raw[1]) / 1e6)


def eviction_policy() -> Command[tuple[int, str]]:
    """Redis' memory limit in bytes, 0 for none, and what it throws away when it is reached."""
    return Command(
        "INFO",
        [],
        ["memory"],
        # Not every service that speaks Redis' protocol tells.
        lambda raw: (int(raw.get("maxmemory", 0)), str(raw.get("maxmemory_policy", "noeviction"))),
    )


def job_keys(job_id: str) -> list[str]:
    """The keys of the commands that change a job, in the order that _shared.lua expects."""
    return [
        keys.job(job_id),
        keys.DUE,
        keys.RECENT,
        keys.COUNTS,
        keys.EVENTS,
        keys.INDEX,
        keys.METRICS,
    ]


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _job(job_id: str, record: Mapping[str, str]) -> Job | None:
    try:
        return Job.model_validate({"id": job_id, **record})
    except ValidationError as error:
        fields = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors()}))
        logger.error("%s: the record can't be read, look at: %s", job_id, fields)  # noqa: TRY400 - the fields say it all
        return None


def _job_status(raw: Sequence[str | None]) -> JobStatus | None:
    try:
        return JobStatus.parse(raw)
    except ValueError:
        return None
