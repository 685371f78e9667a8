"""The job's state machine: everything lives here, as data.

OpenAI's batch statuses are those of ``openai.types.Batch.status``; Flyte's phases those of
``flyteidl.core.TaskExecution.Phase``, by name. The Lua commands get their rules from these
tables as arguments and know none of their own.
"""

from enum import IntEnum, StrEnum


class JobKind(StrEnum):
    """What a job does; one for each Flyte task type."""

    UPLOAD = "upload"
    BATCH = "batch"
    DOWNLOAD = "download"


class JobState(StrEnum):
    """Where a job stands."""

    #: Recorded, not yet at OpenAI.
    QUEUED = "queued"
    #: At OpenAI; or a transfer under way.
    RUNNING = "running"
    #: The outputs are there.
    SUCCEEDED = "succeeded"
    #: Wrong input, refused by OpenAI, expired, cancelled elsewhere.
    FAILED = "failed"
    #: Gave up on an outage or a lost worker; another attempt may do better.
    RETRYABLE = "retryable"
    #: Cancelled by Flyte or by an operator.
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the state absorbs: nothing follows it."""
        return not TRANSITIONS[self]


class Stage(IntEnum):
    """How far OpenAI has come with a batch. It only ever grows."""

    NONE = 0
    VALIDATING = 1
    IN_PROGRESS = 2
    FINISHING = 3
    ENDED = 4


class Phase(StrEnum):
    """The phases of ``flyteidl.core.TaskExecution.Phase`` that a job can be in."""

    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    RETRYABLE_FAILED = "RETRYABLE_FAILED"


#: State -> the states that may follow it. A state may always be repeated while it is live.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(JobState),
    JobState.RUNNING: frozenset(JobState) - {JobState.QUEUED},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.RETRYABLE: frozenset(),
    JobState.CANCELLED: frozenset(),
}

LIVE: frozenset[JobState] = frozenset(state for state in JobState if not state.terminal)

#: OpenAI's status -> our state. A status that is not on the list means ``running``.
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

#: OpenAI's status -> stage. A status that is not on the list says nothing about it.
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

_PHASE_OF_STATE: dict[JobState, Phase] = {
    JobState.QUEUED: Phase.QUEUED,
    JobState.SUCCEEDED: Phase.SUCCEEDED,
    JobState.FAILED: Phase.FAILED,
    JobState.RETRYABLE: Phase.RETRYABLE_FAILED,
    # Not ABORTED, which would drop the message.
    JobState.CANCELLED: Phase.FAILED,
}


def may_follow(state: JobState) -> frozenset[JobState]:
    """The states from which a job may go to ``state``."""
    return frozenset(before for before, after in TRANSITIONS.items() if state in after)


def state_of(openai_status: str) -> JobState:
    """Map OpenAI's batch status, known or not, onto our state."""
    return STATE_OF_STATUS.get(openai_status, JobState.RUNNING)


def stage_of(openai_status: str) -> Stage:
    """Map OpenAI's batch status onto its stage; ``Stage.NONE`` when it is not on the list."""
    return STAGE_OF_STATUS.get(openai_status, Stage.NONE)


def phase_of(kind: JobKind, state: JobState, stage: Stage) -> Phase:
    """The phase that Flyte is told.

    A batch is INITIALIZING, which carries its message to the user, until OpenAI works on it.
    """
    if state is not JobState.RUNNING:
        return _PHASE_OF_STATE[state]
    if kind is JobKind.BATCH and stage < Stage.IN_PROGRESS:
        return Phase.INITIALIZING
    return Phase.RUNNING
