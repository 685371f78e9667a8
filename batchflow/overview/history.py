"""What a job has gone through, from its record."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from batchflow.jobs import Job
from batchflow.states import JobState


class Event(BaseModel):
    """A transition: what the job was from then on."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    state: JobState
    openai_status: str = Field(description="OpenAI's own word, empty before there is one.")
    source: str = Field(
        description="Who saw to it: `create`, `submit`, `poll`, `webhook`, `cancel` ..."
    )
    message: str


def timeline(job: Job) -> tuple[Event, ...]:
    """A job's transitions, oldest first. Of very many, those after the first are left out."""
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
