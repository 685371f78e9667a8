"""``batchflow status``, ``list`` and ``cancel``: what the job store knows, and one wish."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from batchflow.cli import job_views
from batchflow.cli.filter_options import filtered
from batchflow.cli.store_session import ask
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

_json_option = click.option("--json", "as_json", is_flag=True, help="Print data.")


@click.command()
@click.argument("id_", metavar="ID")
@_json_option
def status(id_: str, as_json: bool) -> None:
    """Show all about a job, and what it has gone through.

    ID is the job's, or that of its batch or uploaded file at OpenAI.
    """

    async def found(store: AsyncJobStore) -> tuple[Job, float]:
        return await find_job(store, id_), await store.run(records.time())

    job, now_s = ask(found)
    if as_json:
        click.echo(_json(JobDetails.of(job).model_dump(mode="json")))
    else:
        _print(job_views.details(job, now_s, public_url=load_settings().public_url))


@click.command("list")
@filtered
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many at most."
)
@click.option(
    "--after", metavar="CURSOR", help="Go on after a page: what it has named for that, as it was."
)
@_json_option
def list_jobs(wanted: JobFilter, limit: int, after: str | None, as_json: bool) -> None:
    """List jobs, newest first, and count all that there are.

    A live job's time is when it was made, another one's when it ended.
    """

    async def found(store: AsyncJobStore) -> tuple[ListedJobs, _Counts, float]:
        page = await _page(store, wanted, limit, after)
        return page, await store.run(index.counts()), await store.run(records.time())

    page, counts, now_s = ask(found)
    if as_json:
        shown = [JobView.of(job).model_dump(mode="json") for job in page.jobs]
        by_state = job_views.by_state(counts)
        click.echo(_json({"jobs": shown, "next": page.next, "counts": by_state}))
        return
    if page.jobs:
        _print(job_views.table(page.jobs, now_s), cut=True)
    if page.next:
        click.echo(f"There are more: --after '{page.next}'")
    click.echo(job_views.counts_line(counts, matching=bool(page.jobs)))


@click.command()
@click.argument("id_", metavar="ID")
@_json_option
def cancel(id_: str, as_json: bool) -> None:
    """Cancel a job. ID is the job's, or that of its batch at OpenAI."""
    app = make_app(load_settings())

    async def send(step: Step, job_id: str) -> None:
        await asyncio.to_thread(Sender(app).send, step, job_id)

    async def cancelled(store: AsyncJobStore) -> Cancellation:
        message = "Cancelled from the command line."
        return await cancel_job(store, send, id_, message=message, source="cli")

    done = ask(cancelled)
    if as_json:
        shown = JobView.of(done.job).model_dump(mode="json")
        click.echo(_json({"outcome": done.result, **shown}))
    else:
        click.echo(job_views.cancelled(done))


async def _page(
    store: AsyncJobStore, wanted: JobFilter, limit: int, after: str | None
) -> ListedJobs:
    """A page that is full if it can be: a search that reads many records answers in parts."""
    page = await page_of_jobs(store, wanted, limit=limit, after=after)
    while page.next and len(page.jobs) < limit:
        left = limit - len(page.jobs)
        more = await page_of_jobs(store, wanted, limit=left, after=page.next)
        page = replace(more, jobs=page.jobs + more.jobs)
    return page


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2)


def _print(content: Text, *, cut: bool = False) -> None:
    """Print it; ``cut`` cuts lines at the edge of a terminal."""
    console = Console(highlight=False)
    if cut and console.is_terminal:
        console.print(content, no_wrap=True, overflow="ellipsis")
    else:
        console.print(content, soft_wrap=True)
