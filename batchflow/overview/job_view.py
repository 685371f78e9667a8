"""A job and its history, as the API, the status page and the command line show them."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from batchflow.jobs import Job, Spec
from batchflow.states import JobKind, JobState, Phase


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


class JobView(BaseModel):
    """A job. Times are ISO 8601 in UTC, sizes in bytes."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: JobKind
    state: JobState
    phase: Phase = Field(description="The phase in Flyte.")
    message: str = Field(description="Why the job waits or failed, or what it is doing.")
    cancel_requested: bool
    openai_status: str = Field(description="OpenAI's status; empty before there is a batch.")
    batch_id: str | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    model: str | None
    total: int = Field(description="Requests in the batch.")
    completed: int = Field(description="Requests that OpenAI has answered.")
    failed: int = Field(description="Requests that failed.")
    bytes_done: int
    bytes_total: int
    input_tokens: int = Field(description="Counted by OpenAI, once the batch has ended.")
    output_tokens: int
    top_error: str = Field(
        description="The most frequent error of the failed requests, once its page was opened."
    )
    organization: str | None
    credential: str = Field(description="The name of the secret, never the secret.")
    execution: str = Field(
        description="`<project>/<domain>/<execution>/<node>`, empty for a local run."
    )
    attempt: int = Field(description="Flyte's attempt that created the job, from 0.")
    generation: int = Field(
        description="The generation of the job, from 1: a new one follows a failure."
    )
    waiting_since: datetime | None = Field(
        description="Since when the job waits for OpenAI's limit of enqueued tokens."
    )
    created_at: datetime
    updated_at: datetime
    checked_at: datetime | None = Field(description="When OpenAI last reported the batch.")
    expires_at: datetime | None = Field(description="When the batch expires at OpenAI.")
    source: str = Field(description="What made the last change.")

    @classmethod
    def of(cls, job: Job) -> "JobView":
        """A job in a list."""
        return cls(**_shown(job))


class JobDetails(JobView):
    """A job with its spec, its outputs and its history."""

    spec: Spec = Field(description="The parameters of the job.")
    result: dict[str, Any] | None = Field(description="The task's outputs, once it has succeeded.")
    timeline: tuple[Event, ...] = Field(
        description="The transitions, oldest first. Of very many, some are left out."
    )

    @classmethod
    def of(cls, job: Job) -> "JobDetails":
        """A single job."""
        return cls(**_shown(job), spec=job.spec, result=job.result, timeline=timeline(job))


def timeline(job: Job) -> tuple[Event, ...]:
    """A job's transitions, oldest first. If there are very many, those after the first are left
    out."""
    lines = (line.split("\t", 4) for line in job.history.split("\n") if line)
    return tuple(
        Event(
            at=datetime.fromtimestamp(float(at_s), UTC),
            state=JobState(state),
            openai_status=status,
            source=source,
            message=message,
        )
        for at_s, state, status, source, message in lines
    )


def _shown(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in JobView.model_fields}
