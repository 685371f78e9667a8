"""The status API: jobs, one job, the wish to cancel it, and the fleet in numbers."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from batchflow.gateway.api.models import SHOWS_TOKEN, CancelAnswer, JobPage, problems
from batchflow.gateway.context import AppContext
from batchflow.gateway.security.access import check_csrf
from batchflow.overview.cancellation import cancel_job
from batchflow.overview.job_list import Filter, find_job, list_jobs
from batchflow.overview.job_view import JobDetails, JobView
from batchflow.overview.snapshot import Summary, summarize
from batchflow.states import JobKind, JobState

#: Jobs on a page.
_USUAL: Final = 50
_MOST: Final = 200
#: Longer than any name there is.
_MOST_CHARS: Final = 300

_Typed = Annotated[str, Field(max_length=_MOST_CHARS)]


class JobsAsked(BaseModel):
    """Which jobs, and from where on. A name that is not known is an error: a filter that is
    misspelt would show everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: list[JobState] = Field(
        [], max_length=len(JobState), description="In one of these states."
    )
    kind: list[JobKind] = Field([], max_length=len(JobKind), description="Of one of these kinds.")
    organization: _Typed = Field("", description="Of this organization at OpenAI.")
    execution: _Typed = Field(
        "",
        description="Of this Flyte execution: its name, or `<project>/<domain>/<name>`, with or "
        "without `/<node>`.",
    )
    text: _Typed = Field(
        "",
        description="With this in an id, the execution, the model, the credential, OpenAI's "
        "status or the message, in capitals or not.",
    )
    after: _Typed = Field(
        "",
        description="The `next` of the page before.",
        examples=["1767225600.000000 bf-mctgn4lcdvhclm2p4qc7gkxbae"],
    )
    limit: int = Field(_USUAL, ge=1, le=_MOST, description="How many at most.")

    @property
    def filter(self) -> Filter:
        """For the list."""
        return Filter(
            frozenset(self.state),
            frozenset(self.kind),
            self.organization,
            self.execution,
            self.text,
        )


# A server that speaks OpenAI's API may have slashes in its ids.
_JobId = Annotated[
    str,
    Path(
        max_length=_MOST_CHARS,
        description="The job's id, or that of its batch or uploaded file at OpenAI.",
        examples=["bf-mctgn4lcdvhclm2p4qc7gkxbae", "batch_68f0c1", "file-abc123"],
    ),
]

router = APIRouter(prefix="/api", tags=["jobs"], dependencies=[SHOWS_TOKEN])


@router.get("/jobs", operation_id="listJobs", summary="Jobs, newest first", responses=problems(400))
async def jobs(context: AppContext, asked: Annotated[JobsAsked, Query()]) -> JobPage:
    """A live job's place is by when it was made, another one's by when it ended.

    While jobs change, no job comes twice on the pages that follow each other, and one that matches
    all the while and does not end meanwhile comes once.
    """
    page = await list_jobs(context.store, asked.filter, limit=asked.limit, after=asked.after)
    return JobPage(jobs=tuple(map(JobView.of, page.jobs)), next=page.next)


# Before the next one, whose path takes in this one's.
@router.post(
    "/jobs/{job_id:path}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job",
    dependencies=[Depends(check_csrf)],
    responses=problems(400, 404, 413),
)
async def cancel(context: AppContext, job_id: _JobId) -> CancelAnswer:
    """At OpenAI, too. Asked twice, it does no more than once.

    A browser's request needs the page's CSRF token; one with `Authorization` does not.
    """
    done = await cancel_job(
        context.store, context.send, job_id, message="Cancelled through the API.", source="api"
    )
    return CancelAnswer(outcome=done.outcome, delayed=done.delayed, job=JobView.of(done.job))


@router.get(
    "/jobs/{job_id:path}",
    operation_id="getJob",
    summary="A job with its history",
    responses=problems(400, 404),
)
async def job(context: AppContext, job_id: _JobId) -> JobDetails:
    """All there is to know about a job."""
    return JobDetails.of(await find_job(context.store, job_id))


@router.get(
    "/summary", operation_id="getSummary", summary="The fleet in numbers", responses=problems()
)
async def summary(context: AppContext) -> Summary:
    """What runs, what waits and for what, and what has come of the last hour."""
    return await summarize(context.store)
