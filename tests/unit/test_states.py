from itertools import pairwise, product
from typing import get_args

import pytest
from flyteidl.core.execution_pb2 import TaskExecution
from openai.types import Batch

from batchflow.states import (
    LIVE,
    STAGE_OF_STATUS,
    STATE_OF_STATUS,
    TRANSITIONS,
    JobKind,
    JobState,
    Phase,
    Stage,
    WaitingFor,
    may_follow,
    phase_of,
    stage_of,
    state_of,
)

TERMINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.RETRYABLE, JobState.CANCELLED}
OPENAI_STATUSES = get_args(Batch.model_fields["status"].annotation)

#: The order in which Flyte sees the phases of a job that never waits for something. Phases of equal
#: rank never follow each other.
RANK = {
    Phase.INITIALIZING: 1,
    Phase.RUNNING: 2,
    Phase.SUCCEEDED: 3,
    Phase.FAILED: 3,
    Phase.RETRYABLE_FAILED: 3,
}


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {JobState.QUEUED, JobState.RUNNING} == LIVE


@pytest.mark.parametrize("state", JobState)
def test_terminal_states_are_final_and_live_ones_may_end_in_any(state: JobState) -> None:
    assert state.terminal is (state in TERMINAL)
    following = TRANSITIONS[state]
    assert following == frozenset() if state.terminal else following >= TERMINAL | {state}


@pytest.mark.parametrize("state", JobState)
def test_may_follow_is_the_inverse_of_the_table(state: JobState) -> None:
    assert may_follow(state) == {before for before in JobState if state in TRANSITIONS[before]}


def test_no_state_returns_to_queued() -> None:
    assert may_follow(JobState.QUEUED) == {JobState.QUEUED}


@pytest.mark.parametrize("status", OPENAI_STATUSES)
def test_every_status_of_openai_is_mapped(status: str) -> None:
    assert status in STATE_OF_STATUS
    assert status in STAGE_OF_STATUS
    assert state_of(status).terminal is (stage_of(status) is Stage.ENDED)


def test_the_tables_have_only_statuses_of_openai() -> None:
    assert set(STATE_OF_STATUS) == set(STAGE_OF_STATUS) == set(OPENAI_STATUSES)


@pytest.mark.parametrize("status", ["", "paused", "Completed", "succeeded", "in-progress"])
def test_an_unknown_status_means_running_without_a_stage(status: str) -> None:
    assert state_of(status) is JobState.RUNNING
    assert stage_of(status) is Stage.NONE


def test_the_phases_are_flytes() -> None:
    assert {TaskExecution.Phase.Value(phase) for phase in Phase} <= set(
        TaskExecution.Phase.values()
    )


@pytest.mark.parametrize(
    ("kind", "state", "stage", "phase"),
    [
        (JobKind.BATCH, JobState.QUEUED, Stage.NONE, Phase.INITIALIZING),
        (JobKind.UPLOAD, JobState.QUEUED, Stage.NONE, Phase.INITIALIZING),
        (JobKind.BATCH, JobState.RUNNING, Stage.NONE, Phase.INITIALIZING),
        (JobKind.BATCH, JobState.RUNNING, Stage.VALIDATING, Phase.INITIALIZING),
        (JobKind.BATCH, JobState.RUNNING, Stage.IN_PROGRESS, Phase.RUNNING),
        (JobKind.BATCH, JobState.RUNNING, Stage.FINISHING, Phase.RUNNING),
        (JobKind.UPLOAD, JobState.RUNNING, Stage.NONE, Phase.RUNNING),
        (JobKind.DOWNLOAD, JobState.RUNNING, Stage.NONE, Phase.RUNNING),
        (JobKind.BATCH, JobState.SUCCEEDED, Stage.ENDED, Phase.SUCCEEDED),
        (JobKind.BATCH, JobState.FAILED, Stage.ENDED, Phase.FAILED),
        (JobKind.UPLOAD, JobState.RETRYABLE, Stage.NONE, Phase.RETRYABLE_FAILED),
        (JobKind.BATCH, JobState.CANCELLED, Stage.ENDED, Phase.FAILED),
    ],
)
def test_phase_of_a_state(kind: JobKind, state: JobState, stage: Stage, phase: Phase) -> None:
    assert phase_of(kind, state, stage, None) is phase


@pytest.mark.parametrize("kind", JobKind)
@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("waiting_for", [None, *WaitingFor])
def test_flyte_shows_a_wait_before_the_work_and_then_only_one_for_a_person(
    kind: JobKind, stage: Stage, waiting_for: WaitingFor | None
) -> None:
    before = Phase.WAITING_FOR_RESOURCES if waiting_for else Phase.INITIALIZING
    waits_for_a_person = waiting_for is WaitingFor.KEY
    during = Phase.WAITING_FOR_RESOURCES if waits_for_a_person else Phase.RUNNING
    assert phase_of(kind, JobState.QUEUED, stage, waiting_for) is before
    working = kind is not JobKind.BATCH or stage >= Stage.IN_PROGRESS
    assert phase_of(kind, JobState.RUNNING, stage, waiting_for) is (during if working else before)
    for state in TERMINAL:
        assert phase_of(kind, state, stage, waiting_for) is phase_of(kind, state, stage, None)


@pytest.mark.parametrize("kind", JobKind)
def test_phases_never_go_back_along_any_path(kind: JobKind) -> None:
    # Stages only grow, so it is enough to check single transitions.
    places = list(product(JobState, Stage))
    for (state, stage), (state_after, stage_after) in product(places, places):
        if state_after not in TRANSITIONS[state] or stage_after < stage:
            continue
        before = phase_of(kind, state, stage, None)
        after = phase_of(kind, state_after, stage_after, None)
        assert RANK[before] <= RANK[after], f"{state}, {stage} -> {state_after}, {stage_after}"


def test_the_phases_of_a_successful_batch_are_in_order() -> None:
    course = ["validating", "in_progress", "finalizing", "completed"]
    stages = [stage_of(status) for status in course]
    assert stages == sorted(stages)
    phases = [phase_of(JobKind.BATCH, state_of(s), stage_of(s), None) for s in course]
    assert phases == [Phase.INITIALIZING, Phase.RUNNING, Phase.RUNNING, Phase.SUCCEEDED]
    assert all(RANK[before] <= RANK[after] for before, after in pairwise(phases))
