"""A job as people and programs are shown it: the record, and what follows from it."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from batchflow.jobs import Job, Spec
from batchflow.overview.history import Event, timeline
from batchflow.states import JobKind, JobState, Phase, phase_of


class JobView(BaseModel):
    """A job. Times are ISO 8601 in UTC, sizes in bytes."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: JobKind
    state: JobState
    phase: Phase = Field(description="What Flyte is told.")
    message: str = Field(description="Why it waits or failed, or what it is doing.")
    cancel_requested: bool
    openai_status: str = Field(description="OpenAI's own word, empty before there is one.")
    batch_id: str | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    model: str | None
    total: int = Field(description="Requests in the batch.")
    completed: int = Field(description="Requests that OpenAI has answered.")
    failed: int = Field(description="Requests that OpenAI could not answer.")
    bytes_done: int
    bytes_total: int
    input_tokens: int = Field(description="As OpenAI counted them, once the batch has ended.")
    output_tokens: int
    top_error: str = Field(
        description="The most frequent error of its failed requests, once somebody has looked at "
        "the job."
    )
    organization: str | None
    credential: str = Field(description="The name of the secret, never the secret.")
    execution: str = Field(
        description="`<project>/<domain>/<execution>/<node>`, empty for a local run."
    )
    attempt: int = Field(description="Flyte's attempt that ordered it, from 0.")
    generation: int = Field(description="Which try of the whole job this is, from 1.")
    waiting_since: datetime | None = Field(
        description="Since when it waits for OpenAI's limit of enqueued tokens."
    )
    created_at: datetime
    updated_at: datetime
    checked_at: datetime | None = Field(description="When OpenAI was last asked about it.")
    expires_at: datetime | None = Field(description="When OpenAI gives the batch up.")
    source: str = Field(description="Who made the last change.")

    @classmethod
    def of(cls, job: Job) -> "JobView":
        """A job as it is shown in a list."""
        return cls.model_validate(_shown(job))


class JobDetails(JobView):
    """A job with its order, its outputs and its history."""

    spec: Spec = Field(description="What was asked for, and with which config.")
    result: dict[str, Any] | None = Field(description="The task's outputs, once it has succeeded.")
    timeline: tuple[Event, ...] = Field(
        description="Its transitions, oldest first. Of very many, those after the first are left "
        "out."
    )

    @classmethod
    def of(cls, job: Job) -> "JobDetails":
        """A job by itself."""
        return cls.model_validate(
            {
                **_shown(job),
                "spec": job.spec,
                "result": job.result,
                "timeline": timeline(job),
            }
        )


def _shown(job: Job) -> dict[str, Any]:
    return {
        **{name: getattr(job, name) for name in JobView.model_fields if name != "phase"},
        "phase": phase_of(job.kind, job.state, job.stage),
    }
