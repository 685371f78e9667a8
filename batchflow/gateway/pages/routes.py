"""The status page: the fleet and its jobs at ``/``, one job at ``/jobs/<id>``.

Pages are made here and work without a script. With one they fetch themselves again when something
has happened, see ``static/live.js``.
"""

import logging
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response

from batchflow.errors import JobNotFound, StoreUnavailable
from batchflow.gateway.context import AppContext, GatewayContext
from batchflow.gateway.pages.blockers import blockers
from batchflow.gateway.pages.display import words
from batchflow.gateway.pages.error_pages import PageRoute
from batchflow.gateway.pages.filters import kind_filters, state_filters
from batchflow.gateway.pages.query import JobsQuery
from batchflow.gateway.pages.stat_tiles import said, stat_tiles
from batchflow.gateway.pages.templating import render
from batchflow.gateway.security.access import check_csrf
from batchflow.jobs import Job, is_job_id, is_openai_id
from batchflow.links import execution_page
from batchflow.overview.cancellation import cancel_job
from batchflow.overview.history import timeline
from batchflow.overview.job_list import MOST_READ, find_job, list_jobs
from batchflow.overview.snapshot import summarize
from batchflow.queue import QueueUnavailable, Step
from batchflow.states import phase_of
from batchflow.store import leases, records

logger = logging.getLogger(__name__)

#: Jobs on a page.
_PAGE_SIZE: Final = 50
#: A page is fetched again after this: counts of requests change without an event. Sooner while
#: something on it is under way.
_QUICK_S: Final = 3
_SLOW_S: Final = 15
#: A batch's error file is asked for at most this often.
_EXPLAIN_EVERY_S: Final = 60

#: What became of a wish to cancel, as the job's page says it, and whether it says so of a job that
#: has ended.
_NOTICES: Final = {
    "cancelled": ("Cancelled.", True),
    "requested": ("A worker cancels the batch at OpenAI. It ends when OpenAI says so.", False),
    "delayed": (
        "Recorded. Celery's broker is away; the workers cancel the batch when it is back.",
        False,
    ),
    "ended": ("The job had ended already; nothing was cancelled.", True),
}


router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
async def show_jobs(
    request: Request, context: AppContext, query: Annotated[JobsQuery, Query()]
) -> Response:
    """The fleet in numbers, and a page of its jobs."""
    if job := await _named(context, query.text):
        return RedirectResponse(f"/jobs/{job.id}", HTTPStatus.SEE_OTHER)
    summary = await summarize(context.store)
    page = await list_jobs(context.store, query.filter, limit=_PAGE_SIZE, after=query.after or None)
    is_live = any(not job.terminal for job in page.jobs)
    return render(
        request,
        "jobs.html",
        now=summary.at,
        tiles=stat_tiles(summary, context.settings.sweep_interval_s),
        blockers=blockers(summary),
        said=said(summary),
        running=summary.running,
        filters=(state_filters(query, summary), kind_filters(query)),
        query=query,
        jobs=page.jobs,
        next=page.next,
        page_size=_PAGE_SIZE,
        most_read=MOST_READ,
        refresh_s=_QUICK_S if is_live else _SLOW_S,
    )


@router.get("/jobs/{job_id:path}")
async def show_job(
    request: Request, context: AppContext, job_id: str, cancel: str = ""
) -> Response:
    """All about a job; its id may be that of its batch or uploaded file at OpenAI."""
    job = await find_job(context.store, job_id)
    if job.id != job_id:
        return RedirectResponse(f"/jobs/{job.id}", HTTPStatus.SEE_OTHER)
    is_reading = await _explain(context, job)
    notice, of_ended = _NOTICES.get(cancel, ("", False))
    console = context.settings.flyte_console_url
    return render(
        request,
        "job.html",
        now=datetime.fromtimestamp(await context.store.run(records.time()), UTC),
        job=job,
        events=timeline(job),
        phase=phase_of(job.kind, job.state, job.stage),
        asked=job.spec.model_dump(mode="json", exclude={"kind", "credential"}, exclude_none=True),
        console=execution_page(console, job.execution) if console else None,
        notice=notice if job.terminal is of_ended else "",
        said=", ".join(filter(None, (f"{job.kind.title()} {job.state}", words(job.openai_status)))),
        of_execution=JobsQuery(execution="/".join(job.execution.split("/")[:3])).address(),
        is_reading=is_reading,
        refresh_s=_SLOW_S if job.terminal and not is_reading else _QUICK_S,
    )


@router.post("/jobs/{job_id:path}/cancel", dependencies=[Depends(check_csrf)])
async def cancel(context: AppContext, job_id: str) -> Response:
    """Cancel a job, and show what has come of it."""
    done = await cancel_job(
        context.store,
        context.send,
        job_id,
        message="Cancelled from the status page.",
        source="page",
    )
    outcome = "delayed" if done.delayed else done.outcome
    return RedirectResponse(f"/jobs/{done.job.id}?cancel={outcome}", HTTPStatus.SEE_OTHER)


async def _named(context: GatewayContext, text: str) -> Job | None:
    """The job that somebody searches for by its id, or by that of its batch."""
    if not is_job_id(text) and not is_openai_id(text):
        return None
    try:
        job = await find_job(context.store, text)
    except JobNotFound:
        return None
    return job if text in (job.id, job.batch_id) else None


async def _explain(context: GatewayContext, job: Job) -> bool:
    """Whether its error file is to be read for the most frequent error; then a worker does so."""
    if job.top_error or not job.failed or not job.error_file_id:
        return False
    lease = leases.acquire(f"explain:{job.id}", uuid.uuid4().hex, ttl_s=_EXPLAIN_EVERY_S)
    try:
        if await context.store.run(lease):
            await context.send(Step.EXPLAIN, job.id)
    except (QueueUnavailable, StoreUnavailable) as error:
        logger.warning("%s: nobody reads its error file: %s", job.id, error)
    return True
