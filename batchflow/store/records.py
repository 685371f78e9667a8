"""Commands on jobs' records; Flyte's ``get`` reads the fields of ``JobStatus`` from them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from batchflow.errors import invalid_fields
from batchflow.jobs import Job, JobRequest, JobStatus
from batchflow.states import LIVE, JobKind, JobState, Stage, may_follow
from batchflow.store import keys
from batchflow.store.command import Command

logger = logging.getLogger(__name__)

#: What a field can be set to; None removes it.
Value = str | int | float | None

#: See :func:`update`.
NO_BATCH = "none"

#: A store, or its server, counts as new for this long. Meanwhile, Flyte asks about all jobs that it
#: may have lost.
_NEW_STORE_S = 900

_LIVE = ",".join(sorted(LIVE))
_TERMINAL = ",".join(sorted(set(JobState) - LIVE))

#: The source of what Flyte's DeleteTask changes.
_DELETE = "delete"

#: The message of a job whose record was lost and is being rebuilt.
REBUILDING = "Redis lost this job's record; Batchflow is searching for its batch or file at OpenAI"


class UpdateOutcome(StrEnum):
    """The outcome of :func:`update`, and of the commands of ``quota_queues`` that change a job."""

    APPLIED = "applied"
    #: The observation is older than what is known; only ``checked_at`` changed.
    STALE = "stale"
    #: The job has no other to wait behind; only from ``quota_queues.join``.
    FIRST = "first"
    #: The state does not allow the change; nothing changed.
    REFUSED = "refused"
    #: There is no such record.
    MISSING = "missing"


@dataclass(frozen=True)
class Updated:
    """The result of :func:`update`, ``quota_queues.requeue`` and ``quota_queues.join``."""

    outcome: UpdateOutcome
    #: The state now; None if this version does not know it, or there is no record.
    state: JobState | None
    cancel_requested: bool

    @property
    def ended(self) -> bool:
        """Whether the job has ended, now or before."""
        return self.state is not None and self.state.terminal

    @classmethod
    def parse(cls, raw: Sequence[str]) -> "Updated":
        """From the reply of update.lua or requeue.lua."""
        state = JobState(raw[1]) if raw[1] in set(JobState) else None
        return cls(UpdateOutcome(raw[0]), state, bool(raw[2]))


class Begun(StrEnum):
    """What :func:`begin` allows."""

    BEGUN = "begun"
    #: The store may have lost a try of this job: search for what it created.
    SEARCH = "search"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    MISSING = "missing"


@dataclass(frozen=True)
class Try:
    """The result of :func:`begin`."""

    begun: Begun
    #: The number of the try, from 1; 0 if it has not begun.
    number: int = 0
    #: The record's ``tried_at``, which identifies the try.
    tried_at: str = ""
    #: ``tries``, ``tried_at`` and ``settled_at`` before it.
    before: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: Sequence[Any]) -> "Try":
        """From the reply of begin.lua."""
        begun, number, *rest = raw
        tried_at, *before = rest or [""]
        return cls(Begun(begun), int(number), str(tried_at), tuple(before))


class CancelResult(StrEnum):
    """The result of cancelling a job."""

    #: The job ended at once.
    CANCELLED = "cancelled"
    #: A worker cancels the batch at OpenAI.
    REQUESTED = "requested"
    #: The job had already ended.
    ENDED = "ended"


class DeleteResult(StrEnum):
    """The result of :func:`delete_task`."""

    #: The job is cancelled after the delay, or was to be cancelled already.
    SCHEDULED = "scheduled"
    #: The job had already ended.
    ENDED = "ended"
    #: A later attempt has the job.
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Unreadable:
    """A record that this version can't read: another version's, or a damaged one."""

    #: The names of the fields that are not valid.
    fields: str
    #: Whether its job has ended.
    ended: bool


class Isolation(StrEnum):
    """The result of :func:`isolate`."""

    NEW = "new"
    #: It was isolated before.
    KNOWN = "known"
    #: The time in which it could have become readable is over.
    OVERDUE = "overdue"
    #: The job has ended, or there is no such record.
    GONE = "gone"


@dataclass(frozen=True)
class Created:
    """The result of :func:`create`."""

    #: None if the record can't be read.
    job: Job | None
    #: Whether the record is new.
    new: bool


def create(
    job_request: JobRequest, *, due_in_s: float, source: str = "create", rebuilt: bool = False
) -> Command[Created]:
    """Create a job's record, or find the one that has its id.

    A later attempt takes over a live job, unless its cancellation was requested. Then the record
    says that the job is replaced.

    ``rebuilt`` says that Redis lost the record. OpenAI may then have a batch of the job already, so
    the record counts a try; its state is RUNNING, because Flyte's phase must not go back. The
    record of a later attempt counts a try, too, and so does any record in a new store, which may be
    one that was emptied, and on a new server, which may have lost the latest changes.
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
        [*job_keys(job_request.job_id), keys.BORN, keys.CREDENTIALS, keys.SERVER],
        [
            job_request.job_id,
            state,
            due_in_s,
            keys.MAX_EVENTS,
            source,
            _NEW_STORE_S if job_request.execution else 0,
            job_request.spec.credential.model_dump_json(),
            _LIVE,
            job_request.attempt,
            *_flat(fields),
        ],
        lambda raw: Created(_job(job_request.job_id, _pairs(raw[1])), bool(raw[0])),
    )


def get(job_id: str) -> Command[Job | None]:
    """Read a record; None if there is none, or none that this version can read."""
    return Command(
        "HGETALL", [keys.job(job_id)], [], lambda raw: _job(job_id, raw) if raw else None
    )


def read(job_id: str) -> Command[Job | Unreadable | None]:
    """Read a record, and distinguish one that this version can't read from none."""
    return Command(
        "HGETALL", [keys.job(job_id)], [], lambda raw: _read(job_id, raw) if raw else None
    )


def start(job_id: str) -> Command[Job | None]:
    """Read a record for a step that starts, and count the start in ``starts`` if the job is live
    and has no batch. None as from :func:`get`."""
    return Command(
        "start",
        [keys.job(job_id)],
        [_LIVE],
        lambda raw: _job(job_id, _pairs(raw)) if raw else None,
    )


def forget_starts(job_id: str) -> Command[bool]:
    """Forget the starts of a job whose step returned."""
    return Command("HDEL", [keys.job(job_id)], ["starts"], bool)


def get_fields(job_id: str, fields: Sequence[str]) -> Command[list[str | None]]:
    """Read some fields of a record; None for each that is absent."""
    return Command("HMGET", [keys.job(job_id)], [*fields], list)


def job_statuses(job_ids: Sequence[str]) -> Command[list[JobStatus | None]]:
    """Read the status of several jobs; None for a job without a readable record."""
    return Command(
        "job_statuses",
        [keys.job(job_id) for job_id in job_ids],
        JobStatus._fields,
        lambda raw: [_job_status(values) for values in raw],
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
    only_in: str | None = None,
) -> Command[Updated]:
    """Change a live job.

    ``stage`` is given with an observation: the stage of the batch when it was observed. An
    observation that is older than what is known is stale. ``of_batch`` is the batch that the fields
    are about: if the job has another one by now, or has one at all in the case of NO_BATCH, the
    change is stale, too. Counts only grow. None removes a field. What the job waits for ends with
    its message. ``only_in`` is the one state that may be changed, whatever the table says: only
    another version may know it.
    """
    fields = fields or {}
    if "message" in fields:
        fields = {"waiting_for": None, **fields}
    made_at_openai = fields.get("batch_id") or fields.get("input_file_id")
    allowed: Collection[str] = LIVE if to is None else may_follow(to)
    if only_in is not None:
        allowed = [only_in]
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
        Updated.parse,
    )


def begin(job_id: str, *, tries: int | None = None, settles_in_s: float = 0) -> Command[Try]:
    """Count a try before a request is sent whose outcome may stay unknown.

    ``tries`` is the number in the record when it was read. If another worker has counted a try
    since then, because this one was paused for longer than its lease, this one is refused.
    ``settles_in_s`` is the longest time until OpenAI's lists show what the request created.
    """
    return Command(
        "begin",
        [keys.job(job_id), keys.SERVER],
        [_LIVE, "" if tries is None else tries, settles_in_s],
        Try.parse,
    )


def settle(job_id: str, begun: Try, *, settles_in_s: float) -> Command[bool]:
    """Record in how many seconds OpenAI's lists show what a try created; False without a record."""
    return Command("settle", [keys.job(job_id)], [begun.tried_at, settles_in_s], bool)


def take_back(job_id: str, begun: Try) -> Command[bool]:
    """Take back a try whose request had no effect; False if another one has begun since."""
    return Command("take_back", [keys.job(job_id)], [begun.tried_at, *begun.before], bool)


def check_server() -> Command[float | None]:
    """Notice if the store's server was restarted, restored or replaced, and may have lost changes;
    returns when that last happened, epoch seconds."""
    return Command("check_server", [keys.SERVER], [], lambda raw: float(raw) if raw else None)


def cancel(job_id: str, *, message: str, source: str) -> Command[CancelResult | None]:
    """Cancel a job: at once, or at OpenAI if it may have a batch there. None if there is no
    record."""
    return _cancel(job_id, message, source)


def delete_task(job_id: str, *, attempt: int, delay_s: float) -> Command[DeleteResult | None]:
    """Record that Flyte deleted the task of a job; None if there is no record.

    The job is due after the delay, for :func:`cancel_deleted`. ``attempt`` is Flyte's: if a later
    one has the job, nothing changes.
    """
    message = "Flyte asked to cancel the job."
    if delay_s:
        message += f" It will be cancelled in {delay_s:g} s unless another attempt takes it over."
    return Command(
        "delete_task",
        job_keys(job_id),
        [job_id, _LIVE, attempt, delay_s, message, keys.MAX_EVENTS, _DELETE],
        lambda raw: DeleteResult(raw) if raw else None,
    )


def cancel_deleted(job_id: str) -> Command[CancelResult | None]:
    """Cancel a job whose task Flyte deleted; None if the delay has not passed, or a later attempt
    has taken over the job."""
    return _cancel(job_id, "Cancelled by Flyte.", _DELETE, only_deleted=True)


def claim_due(limit: int, *, hold_s: float) -> Command[list[str]]:
    """Claim up to ``limit`` jobs that are due; they are due again after ``hold_s``."""
    return Command("claim", [keys.DUE], [limit, hold_s], list)


def restore_due(job_id: str) -> Command[bool]:
    """Make a live job due now if it has lost its due time; returns whether it had."""
    return Command("restore_due", [keys.job(job_id), keys.DUE], [job_id, _LIVE], bool)


def isolate(job_id: str, *, again_s: float, lifetime_s: float) -> Command[tuple[Isolation, str]]:
    """Put a live job aside whose record can't be read; also returns its state.

    It is due again after ``again_s``. Its time is over at its ``expires_at``, or without it
    ``lifetime_s`` after its creation.
    """
    return Command(
        "isolate",
        [keys.job(job_id), keys.DUE, keys.UNREADABLE],
        [job_id, _TERMINAL, again_s, lifetime_s],
        lambda raw: (Isolation(raw[0]), str(raw[1])),
    )


def isolated(limit: int) -> Command[list[str]]:
    """The ids of some jobs that were isolated, and not released."""
    return Command("SRANDMEMBER", [keys.UNREADABLE], [limit], list)


def release(job_ids: Sequence[str]) -> Command[int]:
    """Forget that these jobs were isolated."""
    return Command("SREM", [keys.UNREADABLE], [*job_ids], int)


def purge(job_id: str, *, retention_s: float) -> Command[bool]:
    """Delete a job that ended longer ago than the retention time."""
    return Command("purge", job_keys(job_id), [job_id, _LIVE, retention_s], bool)


def find_job(openai_id: str) -> Command[str | None]:
    """The id of the job that a batch or an uploaded file belongs to."""
    return Command("GET", [keys.openai(openai_id)], [], lambda raw: raw)


def annotate(job_id: str, fields: Mapping[str, str]) -> Command[bool]:
    """Add fields to a record whatever its state; False if there is no record."""
    return Command("annotate", [keys.job(job_id)], _flat(fields), bool)


def note(job_id: str, message: str, *, source: str) -> Command[bool]:
    """Add a line to a job's history whatever its state; False if it is there, or no record is."""
    return Command("note", job_keys(job_id), [job_id, keys.MAX_EVENTS, source, message], bool)


def collect(job_id: str) -> Command[bool]:
    """Record that Flyte knows a job's end; False if there is no record."""
    return Command("collect", [keys.job(job_id), keys.UNCOLLECTED], [job_id], bool)


def live(job_ids: Sequence[str]) -> Command[list[bool]]:
    """Which of these jobs are live: those that have a due time."""
    return Command(
        "ZMSCORE", [keys.DUE], [*job_ids], lambda raw: [score is not None for score in raw]
    )


def time() -> Command[float]:
    """Redis' time, epoch seconds."""
    return Command("TIME", [], [], lambda raw: float(raw[0]) + float(raw[1]) / 1e6)


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
        keys.UNCOLLECTED,
    ]


def _cancel(
    job_id: str, message: str, source: str, *, only_deleted: bool = False
) -> Command[CancelResult | None]:
    job = (job_id, _LIVE, JobState.CANCELLED, JobKind.BATCH)
    return Command(
        "cancel",
        job_keys(job_id),
        [*job, message, keys.MAX_EVENTS, source, int(only_deleted)],
        lambda raw: CancelResult(raw[0]) if raw[0] else None,
    )


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _job(job_id: str, record: Mapping[str, str]) -> Job | None:
    found = _read(job_id, record)
    if isinstance(found, Unreadable):
        logger.error("%s: can't read the record; check: %s", job_id, found.fields)
        return None
    return found


def _read(job_id: str, record: Mapping[str, str]) -> Job | Unreadable:
    try:
        return Job.model_validate({"id": job_id, **record})
    except ValidationError as error:
        ended = record.get("state") in set(JobState) - LIVE
        return Unreadable(invalid_fields(error), ended)


def _job_status(raw: Sequence[str | None]) -> JobStatus | None:
    try:
        return JobStatus.parse(raw)
    except ValueError:
        return None
