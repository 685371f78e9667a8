"""Jobs in a store, rows of the status page's table, and forms on its pages."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, expect

from batchflow.overview.formatting import short_id
from batchflow.settings import Settings
from batchflow.states import JobKind, JobState, Stage
from batchflow.store import JobStore, keys, records
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.job_requests import a_job_request

Fields = Mapping[str, records.Value]

#: The Flyte execution of jobs that name none.
EXECUTION = "shop/production/a7f3kq2m9x/n0"


@contextmanager
def old_gateway(settings: Settings) -> Iterator[Gateway]:
    """Run a gateway over a store that counts as old, so that an unknown id means an unknown job."""
    with running_gateway(settings) as gateway:
        gateway.store.redis.set(keys.full(settings.key_prefix, keys.BORN), 0)
        yield gateway


def make_job(store: JobStore, kind: JobKind = JobKind.BATCH, execution: str = EXECUTION) -> str:
    """Create a job."""
    job = a_job_request(kind, execution=execution)
    store.run(records.create(job, due_in_s=1_000))
    return job.job_id


def observe(
    store: JobStore,
    job_id: str,
    status: str = "in_progress",
    more: Fields | None = None,
    *,
    to: JobState = JobState.RUNNING,
    **fields: records.Value,
) -> None:
    """Write what a poll observes."""
    seen: Fields = {"openai_status": status, "batch_id": f"batch_{job_id[3:]}", "tries": 1}
    fields = {**seen, **fields, **(more or {})}
    stage = Stage.ENDED if to.terminal else Stage.IN_PROGRESS
    store.run(records.update(job_id, source="poll", to=to, stage=stage, fields=fields))


def row(page: Page, job_id: str) -> Locator:
    """The row of a job in the table."""
    return page.locator(f"tr#{job_id}")


def expect_jobs(page: Page, *job_ids: str) -> None:
    """Wait until the table has exactly these jobs, in this order."""
    expect(page.locator("tbody th a")).to_have_text([short_id(job_id) for job_id in job_ids])


def cancel(page: Page) -> None:
    """Cancel the job of a page, and confirm it."""
    page.get_by_text("Cancel this job").click()
    page.get_by_role("button", name="Cancel the job").click()


def log_in(page: Page, token: str) -> None:
    """Submit the form of the login page."""
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
