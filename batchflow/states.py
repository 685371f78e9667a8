"""The state machine of a job, as data.

OpenAI's batch statuses are those of ``openai.types.Batch.status``, Flyte's phases those of
``flyteidl.core.TaskExecution.Phase``, by name. The Lua commands receive their rules from these
tables as arguments.
"""

from enum import IntEnum, StrEnum


class JobKind(StrEnum):
    """The kind of a job: one for each Flyte task type."""

    UPLOAD = "upload"
    BATCH = "batch"
    DOWNLOAD = "download"


class JobState(StrEnum):
    """The state of a job."""

    #: Recorded; OpenAI has no batch of it yet, and no transfer has started.
    QUEUED = "queued"
    #: OpenAI has its batch, or its transfer is running.
    RUNNING = "running"
    #: Its outputs are available.
    SUCCEEDED = "succeeded"
    #: Invalid input, refused by OpenAI, expired, or cancelled elsewhere.
    FAILED = "failed"
    #: Given up after repeated failures; another attempt may succeed.
    RETRYABLE = "retryable"
    #: Cancelled by Flyte or by an operator.
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether no other state follows."""
        return not TRANSITIONS[self]


class Stage(IntEnum):
    """The progress of a batch at OpenAI. It never decreases."""

    NONE = 0
    VALIDATING = 1
    IN_PROGRESS = 2
    FINISHING = 3
    ENDED = 4


class WaitingFor(StrEnum):
    """What a job waits for, if its task is to say so in Flyte."""

    #: OpenAI's limit of enqueued tokens.
    QUOTA = "quota"
    #: A valid API key.
    KEY = "key"


class Phase(StrEnum):
    """The phases of ``flyteidl.core.TaskExecution.Phase`` that a job can be in."""

    INITIALIZING = "INITIALIZING"
    WAITING_FOR_RESOURCES = "WAITING_FOR_RESOURCES"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    RETRYABLE_FAILED = "RETRYABLE_FAILED"


#: State -> the states that may follow it. A live state may follow itself.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(JobState),
    JobState.RUNNING: frozenset(JobState) - {JobState.QUEUED},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.RETRYABLE: frozenset(),
    JobState.CANCELLED: frozenset(),
}

LIVE: frozenset[JobState] = frozenset(state for state in JobState if not state.terminal)

#: OpenAI's status -> the job's state. An unknown status means ``running``.
STATE_OF_STATUS: dict[str, JobState] = {
    "validating": JobState.RUNNING,
    "in_progress": JobState.RUNNING,
    "finalizing": JobState.RUNNING,
    "cancelling": JobState.RUNNING,
    "completed": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "expired": JobState.FAILED,
    "cancelled": JobState.FAILED,
}

#: OpenAI's status -> stage. An unknown status says nothing about the stage.
STAGE_OF_STATUS: dict[str, Stage] = {
    "validating": Stage.VALIDATING,
    "in_progress": Stage.IN_PROGRESS,
    "finalizing": Stage.FINISHING,
    "cancelling": Stage.FINISHING,
    "completed": Stage.ENDED,
    "failed": Stage.ENDED,
    "expired": Stage.ENDED,
    "cancelled": Stage.ENDED,
}

#: Whether work on a live job has begun, and what the job waits for -> the phase. Flyte shows
#: nothing of a connector's QUEUED, and shows each other phase once, with its first message. After
#: RUNNING, only a wait for an operator is shown.
_PHASE_OF_LIVE: dict[tuple[bool, WaitingFor | None], Phase] = {
    (False, None): Phase.INITIALIZING,
    (False, WaitingFor.QUOTA): Phase.WAITING_FOR_RESOURCES,
    (False, WaitingFor.KEY): Phase.WAITING_FOR_RESOURCES,
    (True, None): Phase.RUNNING,
    (True, WaitingFor.QUOTA): Phase.RUNNING,
    (True, WaitingFor.KEY): Phase.WAITING_FOR_RESOURCES,
}

_PHASE_OF_END: dict[JobState, Phase] = {
    JobState.SUCCEEDED: Phase.SUCCEEDED,
    JobState.FAILED: Phase.FAILED,
    JobState.RETRYABLE: Phase.RETRYABLE_FAILED,
    # With ABORTED, Flyte would drop the message.
    JobState.CANCELLED: Phase.FAILED,
}


def may_follow(state: JobState) -> frozenset[JobState]:
    """The states that ``state`` may follow."""
    return frozenset(before for before, after in TRANSITIONS.items() if state in after)


def state_of(openai_status: str) -> JobState:
    """The job's state for OpenAI's batch status, known or unknown."""
    return STATE_OF_STATUS.get(openai_status, JobState.RUNNING)


def stage_of(openai_status: str) -> Stage:
    """The stage for OpenAI's batch status; ``Stage.NONE`` for an unknown one."""
    return STAGE_OF_STATUS.get(openai_status, Stage.NONE)


def phase_of(kind: JobKind, state: JobState, stage: Stage, waiting_for: WaitingFor | None) -> Phase:
    """The phase that Flyte gets."""
    if state.terminal:
        return _PHASE_OF_END[state]
    working = state is JobState.RUNNING and (kind is not JobKind.BATCH or stage > Stage.VALIDATING)
    return _PHASE_OF_LIVE[working, waiting_for]
