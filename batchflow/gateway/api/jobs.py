"""The status API: jobs, a single job, its cancellation, and the fleet in numbers."""

from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from batchflow.gateway.connections import AppConnections
from batchflow.gateway.security.access import check_csrf
from batchflow.overview.cancellation import cancel_job
from batchflow.overview.job_filter import JobFilter
from batchflow.overview.job_list import find_job, list_jobs
from batchflow.overview.job_view import JobDetails, JobView
from batchflow.overview.summary import Summary, summarize
from batchflow.store.records import CancelResult

#: Jobs on a page.
_DEFAULT_LIMIT: Final = 50
_MAX_LIMIT: Final = 200
_MAX_ID_CHARS: Final = 300


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class JobPage(_Frozen):
    """A page of jobs, newest first."""

    jobs: tuple[JobView, ...]
    next: str | None = Field(
        description="The `after` of the next page; null if there is none. A page may be short, or "
        "empty, and still have a next one: a search answers in parts."
    )


class CancelAnswer(_Frozen):
    """The result of a cancellation."""

    outcome: CancelResult = Field(
        description="`cancelled`: the job has ended. `requested`: a worker cancels the batch at "
        "OpenAI, and the job ends when OpenAI reports that the batch has. `ended`: the job had "
        "already ended, and nothing changed."
    )
    delayed: bool = Field(
        description="The cancellation is recorded, but Celery's broker is unavailable. A worker "
        "cancels the batch when the broker is back."
    )
    job: JobView


class Reason(_Frozen):
    """Why a request failed."""

    message: str = Field(description="What went wrong, and what to do.")


class Problem(_Frozen):
    """The response to a request that failed."""

    error: Reason


_MEANING: Final = {
    HTTPStatus.BAD_REQUEST: "A parameter is not valid.",
    HTTPStatus.UNAUTHORIZED: "The token is missing or wrong.",
    HTTPStatus.FORBIDDEN: "The origin of the request is not allowed.",
    HTTPStatus.NOT_FOUND: "There is no such job.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A parameter is missing or not valid; the message names it.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests; `Retry-After` says when to try again.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Redis is unavailable, or the gateway has too many streams.",
}

#: The errors of every route.
_COMMON: Final = (401, 403, 422, 429, 503)

#: Only for the OpenAPI document: the middleware checks the token.
SHOWS_TOKEN: Final = Depends(
    HTTPBearer(auto_error=False, description="BATCHFLOW_API_TOKEN, if it is set.")
)


def problems(*further: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of a route's errors."""
    return {
        status: {"model": Problem, "description": _MEANING[HTTPStatus(status)]}
        for status in sorted({*_COMMON, *further})
    }


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema, for a place in the document where FastAPI does not create one. The models
    that it refers to must be in other responses, too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {name: value for name, value in schema.items() if name != "$defs"}


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
