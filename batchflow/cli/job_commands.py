"""``batchflow status``, ``list`` and ``cancel``."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import click

from batchflow.cli import job_views
from batchflow.cli.options import filter_options, json_option
from batchflow.cli.output import echo, echo_json
from batchflow.cli.store_session import with_store
from batchflow.jobs import Job
from batchflow.overview.cancellation import Cancellation, cancel_job
from batchflow.overview.job_filter import JobFilter
from batchflow.overview.job_list import ListedJobs, find_job
from batchflow.overview.job_list import list_jobs as page_of_jobs
from batchflow.overview.job_view import JobDetails, JobView
from batchflow.queue import Sender, Step, make_app
from batchflow.settings import load_settings
from batchflow.states import JobKind, JobState
from batchflow.store import AsyncJobStore, index, records

_Counts = dict[tuple[JobKind, JobState], int]


@click.command()
@click.argument("id_", metavar="ID")
@json_option
def status(id_: str, as_json: bool) -> None:
    """Show a job in detail, with its history.

    ID is the id of the job, or of its batch or uploaded file at OpenAI.
    """

    async def find(store: AsyncJobStore) -> tuple[Job, datetime]:
        return await find_job(store, id_), await _now(store)

    job, now = with_store(find)
    if as_json:
        echo_json(JobDetails.of(job).model_dump(mode="json"))
    else:
        echo(job_views.details(job, now, public_url=load_settings().public_url))


@click.command("list")
@filter_options
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Show at most this many."
)
@click.option(
    "--after", metavar="CURSOR", help="Continue after a page, with the cursor that it printed."
)
@json_option
def list_jobs(wanted: JobFilter, limit: int, after: str | None, as_json: bool) -> None:
    """List jobs, newest first, and count all jobs by state.

    The column "since" shows when a live job was created, or when another one ended.
    """

    async def find(store: AsyncJobStore) -> tuple[ListedJobs, _Counts, datetime]:
        page = await _full_page(store, wanted, limit, after)
        return page, await store.run(index.counts()), await _now(store)

    page, counts, now = with_store(find)
    if as_json:
        jobs = [JobView.of(job).model_dump(mode="json") for job in page.jobs]
        echo_json({"jobs": jobs, "next": page.next, "counts": job_views.by_state(counts)})
        return
    if page.jobs:
        echo(job_views.table(page.jobs, now), fit="truncate")
    if page.next:
        click.echo(f"There are more jobs: --after '{page.next}'")
    click.echo(job_views.counts_line(counts, matching=bool(page.jobs)))


@click.command()
@click.argument("id_", metavar="ID")
@json_option
def cancel(id_: str, as_json: bool) -> None:
    """Cancel a job and its batch at OpenAI.

    ID is the id of the job, or of its batch or uploaded file at OpenAI.
    """
    app = make_app(load_settings())

    async def send(step: Step, job_id: str) -> None:
        await asyncio.to_thread(Sender(app).send, step, job_id)

    async def request(store: AsyncJobStore) -> Cancellation:
        message = "Cancelled from the command line."
        return await cancel_job(store, send, id_, message=message, source="cli")

    cancellation = with_store(request)
    if as_json:
        echo_json(
            {"outcome": cancellation.result, **JobView.of(cancellation.job).model_dump(mode="json")}
        )
    else:
        click.echo(job_views.cancellation_line(cancellation))


async def _full_page(
    store: AsyncJobStore, wanted: JobFilter, limit: int, after: str | None
) -> ListedJobs:
    """Read on until ``limit`` jobs are found: a search may return pages that are not full."""
    page = await page_of_jobs(store, wanted, limit=limit, after=after)
    while page.next and len(page.jobs) < limit:
        left = limit - len(page.jobs)
        more = await page_of_jobs(store, wanted, limit=left, after=page.next)
        page = replace(more, jobs=page.jobs + more.jobs)
    return page


async def _now(store: AsyncJobStore) -> datetime:
    return datetime.fromtimestamp(await store.run(records.time()), UTC)
