"""A job as people and programs are shown it: the record, and what follows from it."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from batchflow.jobs import Job
from batchflow.overview.timeline import Event, timeline
from batchflow.states import JobKind, JobState, Phase, phase_of


class JobView(BaseModel):
    """A job. Times are ISO 8601 in UTC, sizes in bytes."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: JobKind
    state: JobState
    #: What Flyte is told.
    phase: Phase
    message: str
    cancel_requested: bool
    openai_status: str
    batch_id: str | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    model: str | None
    #: Requests in the batch, those that are done, and those of them that failed.
    total: int
    completed: int
    failed: int
    bytes_done: int
    bytes_total: int
    input_tokens: int
    output_tokens: int
    top_error: str
    organization: str | None
    credential: str
    #: ``<project>/<domain>/<execution>/<node>``, empty for a local run.
    execution: str
    attempt: int
    generation: int
    waiting_since: datetime | None
    created_at: datetime
    updated_at: datetime
    checked_at: datetime | None
    expires_at: datetime | None
    source: str

    @classmethod
    def of(cls, job: Job) -> "JobView":
        """A job as it is shown in a list."""
        return cls.model_validate(_shown(job))


class JobDetails(JobView):
    """A job with its order, its outputs and its history."""

    #: What was asked for, and with which config. It holds no secret.
    spec: dict[str, Any]
    #: The task's outputs, once it has succeeded.
    result: dict[str, Any] | None
    timeline: tuple[Event, ...]

    @classmethod
    def of(cls, job: Job) -> "JobDetails":
        """A job by itself."""
        return cls.model_validate(
            {
                **_shown(job),
                "spec": job.spec.model_dump(mode="json"),
                "result": job.result,
                "timeline": timeline(job),
            }
        )


def _shown(job: Job) -> dict[str, Any]:
    return {
        **{name: getattr(job, name) for name in JobView.model_fields if name != "phase"},
        "phase": phase_of(job.kind, job.state, job.stage),
    }
