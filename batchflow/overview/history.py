"""The transitions of a job, from its record."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from batchflow.jobs import Job
from batchflow.states import JobState


class Event(BaseModel):
    """A transition: the state and the message of a job from then on."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    state: JobState
    openai_status: str = Field(description="OpenAI's status; empty before there is a batch.")
    source: str = Field(
        description="What made the change: `create`, `submit`, `poll`, `webhook`, `cancel` ..."
    )
    message: str


def timeline(job: Job) -> tuple[Event, ...]:
    """A job's transitions, oldest first. If there are very many, those after the first are left
    out."""
    return tuple(_event(line) for line in job.history.split("\n") if line)


def _event(line: str) -> Event:
    at_s, state, status, source, message = line.split("\t", 4)
    return Event(
        at=datetime.fromtimestamp(float(at_s), UTC),
        state=JobState(state),
        openai_status=status,
        source=source,
        message=message,
    )
