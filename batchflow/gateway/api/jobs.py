"""The status API: jobs, a single job, its cancellation, and the fleet in numbers."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query
from pydantic import ConfigDict, Field

from batchflow.gateway.api.models import SHOWS_TOKEN, CancelAnswer, JobPage, problems
from batchflow.gateway.connections import AppConnections
from batchflow.gateway.security.access import check_csrf
from batchflow.overview.cancellation import cancel_job
from batchflow.overview.job_filter import JobFilter
from batchflow.overview.job_list import find_job, list_jobs
from batchflow.overview.job_view import JobDetails, JobView
from batchflow.overview.summary import Summary, summarize

#: Jobs on a page.
_DEFAULT_LIMIT: Final = 50
_MAX_LIMIT: Final = 200
_MAX_ID_CHARS: Final = 300


class JobListQuery(JobFilter):
    """A filter, and a page. An unknown parameter is an error: a misspelled filter would match all
    jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: str = Field(
        default="",
        max_length=_MAX_ID_CHARS,
        description="The `next` of the previous page.",
        examples=["1767225600.000000 bf-mctgn4lcdvhclm2p4qc7gkxbae"],
    )
    limit: int = Field(
        default=_DEFAULT_LIMIT, ge=1, le=_MAX_LIMIT, description="The most jobs to return."
    )


# Other servers with OpenAI's API may have slashes in their ids.
_JobId = Annotated[
    str,
    Path(
        max_length=_MAX_ID_CHARS,
        description="The job's id, or that of its batch or uploaded file at OpenAI.",
        examples=["bf-mctgn4lcdvhclm2p4qc7gkxbae", "batch_68f0c1", "file-abc123"],
    ),
]

router = APIRouter(prefix="/api", tags=["jobs"], dependencies=[SHOWS_TOKEN])


@router.get("/jobs", operation_id="listJobs", summary="Jobs, newest first", responses=problems(400))
async def jobs(connections: AppConnections, query: Annotated[JobListQuery, Query()]) -> JobPage:
    """Live jobs are sorted by their creation, others by their end.

    While jobs change, no job is on two pages, and a job that matches all the time and does not end
    meanwhile is on one.
    """
    page = await list_jobs(connections.store, query, limit=query.limit, after=query.after)
    return JobPage(jobs=tuple(map(JobView.of, page.jobs)), next=page.next)


# Before the next route, whose path matches this one's, too.
@router.post(
    "/jobs/{job_id:path}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job",
    dependencies=[Depends(check_csrf)],
    responses=problems(400, 404, 413),
)
async def cancel(connections: AppConnections, job_id: _JobId) -> CancelAnswer:
    """Cancel a job and its batch at OpenAI. Repeating the request does no harm.

    A browser's request needs the page's CSRF token; one with `Authorization` does not.
    """
    done = await cancel_job(
        connections.store,
        connections.send,
        job_id,
        message="Cancelled through the API.",
        source="api",
    )
    return CancelAnswer(outcome=done.result, delayed=done.delayed, job=JobView.of(done.job))


@router.get(
    "/jobs/{job_id:path}",
    operation_id="getJob",
    summary="A job with its history",
    responses=problems(400, 404),
)
async def job(connections: AppConnections, job_id: _JobId) -> JobDetails:
    """A job, its spec, its outputs and its transitions."""
    return JobDetails.of(await find_job(connections.store, job_id))


@router.get(
    "/summary", operation_id="getSummary", summary="The fleet in numbers", responses=problems()
)
async def summary(connections: AppConnections) -> Summary:
    """What is running, what waits and why, and what ended in the last hour."""
    return await summarize(connections.store)
