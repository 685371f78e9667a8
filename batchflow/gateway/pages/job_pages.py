"""The status page: the fleet and its jobs at ``/``, a single job at ``/jobs/<id>``.

Pages are rendered on the server and work without a script. With it, they reload their content when
something happens; see ``static/live.js``.
"""

import logging
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response

from batchflow.errors import JobNotFound, StoreUnavailable
from batchflow.gateway.connections import AppConnections, GatewayConnections
from batchflow.gateway.pages.error_pages import PageRoute
from batchflow.gateway.pages.fleet import blockers, spoken_summary, stat_tiles
from batchflow.gateway.pages.list_query import ListQuery, kind_filters, state_filters
from batchflow.gateway.pages.templating import render
from batchflow.gateway.security.access import check_csrf
from batchflow.jobs import Job, is_job_id, is_openai_id
from batchflow.links import execution_page
from batchflow.overview.cancellation import cancel_job
from batchflow.overview.formatting import words
from batchflow.overview.health import COLLECT_ADVICE, result_is_uncollected
from batchflow.overview.job_list import MAX_SEARCHED, find_job, list_jobs
from batchflow.overview.job_view import timeline
from batchflow.overview.summary import summarize
from batchflow.queue import QueueUnavailable, Step
from batchflow.store import index, leases, records

logger = logging.getLogger(__name__)

#: Jobs on a page.
_PAGE_SIZE: Final = 50
#: A page reloads after this time, because counts of requests change without an event: sooner while
#: something on it is live.
_LIVE_RELOAD_S: Final = 3
_RELOAD_S: Final = 15
#: A batch's error file is read at most this often.
_EXPLAIN_INTERVAL_S: Final = 60

#: The notice about a cancellation, and whether it is for a job that has ended.
_NOTICES: Final = {
    "cancelled": ("Cancelled.", True),
    "requested": (
        "A worker is cancelling the batch at OpenAI. The job ends when OpenAI reports that the "
        "batch has.",
        False,
    ),
    "delayed": (
        "The cancellation is recorded. Celery's broker is unavailable; the workers cancel the "
        "batch when it is back.",
        False,
    ),
    "ended": ("The job had already ended; nothing was cancelled.", True),
}


router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
async def show_jobs(
    request: Request, connections: AppConnections, query: Annotated[ListQuery, Query()]
) -> Response:
    """The fleet in numbers, and a page of its jobs."""
    if job := await _job_by_id(connections, query.text):
        return RedirectResponse(f"/jobs/{job.id}", HTTPStatus.SEE_OTHER)
    summary = await summarize(connections.store)
    page = await list_jobs(connections.store, query, limit=_PAGE_SIZE, after=query.after or None)
    is_live = any(not job.terminal for job in page.jobs)
    return render(
        request,
        "jobs.html",
        now=summary.at,
        stat_tiles=stat_tiles(
            summary,
            sweep_interval_s=connections.settings.sweep_interval_s,
            poll_interval_s=connections.settings.poll_interval_s,
        ),
        blockers=blockers(summary),
        spoken=spoken_summary(summary),
        running=summary.running,
        filters=(state_filters(query, summary), kind_filters(query)),
        query=query,
        jobs=page.jobs,
        next=page.next,
        page_size=_PAGE_SIZE,
        max_searched=MAX_SEARCHED,
        refresh_s=_LIVE_RELOAD_S if is_live else _RELOAD_S,
    )


@router.get("/jobs/{job_id:path}")
async def show_job(
    request: Request, connections: AppConnections, job_id: str, cancel: str = ""
) -> Response:
    """A single job; the id may be that of its batch or uploaded file at OpenAI."""
    job = await find_job(connections.store, job_id)
    if job.id != job_id:
        return RedirectResponse(f"/jobs/{job.id}", HTTPStatus.SEE_OTHER)
    is_reading = await _explain(connections, job)
    notice, for_ended = _NOTICES.get(cancel, ("", False))
    console = connections.settings.flyte_console_url
    now_s = await connections.store.run(records.time())
    ended_s = await connections.store.run(index.uncollected_end(job.id))
    return render(
        request,
        "job.html",
        now=datetime.fromtimestamp(now_s, UTC),
        job=job,
        collect_advice=COLLECT_ADVICE if result_is_uncollected(ended_s, now_s) else "",
        events=timeline(job),
        spec=job.spec.model_dump(mode="json", exclude={"kind", "credential"}, exclude_none=True),
        console=execution_page(console, job.execution) if console else None,
        notice=notice if job.terminal is for_ended else "",
        spoken=", ".join(
            filter(None, (f"{job.kind.title()} {job.state}", words(job.openai_status)))
        ),
        same_execution=ListQuery(execution="/".join(job.execution.split("/")[:3])).url(),
        is_reading=is_reading,
        refresh_s=_RELOAD_S if job.terminal and not is_reading else _LIVE_RELOAD_S,
    )


@router.post("/jobs/{job_id:path}/cancel", dependencies=[Depends(check_csrf)])
async def cancel(connections: AppConnections, job_id: str) -> Response:
    """Cancel a job, and show the result on its page."""
    done = await cancel_job(
        connections.store,
        connections.send,
        job_id,
        message="Cancelled from the status page.",
        source="page",
    )
    result = "delayed" if done.delayed else done.result
    return RedirectResponse(f"/jobs/{done.job.id}?cancel={result}", HTTPStatus.SEE_OTHER)


async def _job_by_id(connections: GatewayConnections, text: str) -> Job | None:
    """The job that someone searches by its id, or by that of its batch."""
    if not is_job_id(text) and not is_openai_id(text):
        return None
    try:
        job = await find_job(connections.store, text)
    except JobNotFound:
        return None
    return job if text in (job.id, job.batch_id) else None


async def _explain(connections: GatewayConnections, job: Job) -> bool:
    """Let a worker read the error file for its most frequent error; whether it is needed."""
    if job.top_error or not job.failed or not job.error_file_id:
        return False
    lease = leases.acquire(f"explain:{job.id}", uuid.uuid4().hex, ttl_s=_EXPLAIN_INTERVAL_S)
    try:
        if await connections.store.run(lease):
            await connections.send(Step.EXPLAIN, job.id)
    except (QueueUnavailable, StoreUnavailable) as error:
        logger.warning("%s: its error file is not read: %s", job.id, error)
    return True
