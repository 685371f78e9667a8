"""``batchflow status``, ``list`` and ``cancel``: what the job store knows, and one wish."""

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from batchflow.cli import views
from batchflow.errors import InvalidInput, InvalidSettings, JobNotFound
from batchflow.jobs import Job, is_job_id, is_openai_id
from batchflow.queue import QueueUnavailable, Sender, Step, make_app
from batchflow.settings import Settings, load_settings
from batchflow.states import JobKind, JobState
from batchflow.store import JobStore, commands, connect

#: Records read in one round trip while a list is filtered.
_PAGE = 200

_json_option = click.option("--json", "as_json", is_flag=True, help="Print data.")


@click.command()
@click.argument("id_", metavar="ID")
@_json_option
def status(id_: str, as_json: bool) -> None:
    """Show all about a job. ID is the job's, or that of its batch at OpenAI."""
    store = open_store(load_settings())
    job = _find(store, id_)
    if as_json:
        click.echo(_json(views.data(job)))
    else:
        _print(views.details(job, store.run(commands.time())))


@click.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(list(map(str, JobState))),
    help="Only jobs in this state. Can be repeated.",
)
@click.option("--kind", type=click.Choice(list(map(str, JobKind))), help="Only jobs of this kind.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many at most."
)
@_json_option
def list_jobs(states: tuple[str, ...], kind: str | None, limit: int, as_json: bool) -> None:
    """List the jobs that changed last, newest first, and count all that there are."""
    store = open_store(load_settings())
    wanted = frozenset(JobState(state) for state in states) or frozenset(JobState)
    kinds = frozenset([JobKind(kind)] if kind else JobKind)
    jobs = [job for _, job in zip(range(limit), _matching(store, wanted, kinds), strict=False)]
    counts = store.run(commands.counts())
    if as_json:
        by_state = views.by_state(counts)
        click.echo(_json({"jobs": [views.data(job) for job in jobs], "counts": by_state}))
        return
    if jobs:
        _print(views.table(jobs, store.run(commands.time())), cut=True)
    click.echo(views.counts_line(counts, matching=bool(jobs)))


@click.command()
@click.argument("id_", metavar="ID")
@_json_option
def cancel(id_: str, as_json: bool) -> None:
    """Cancel a job. ID is the job's, or that of its batch at OpenAI."""
    settings = load_settings()
    store = open_store(settings)
    job = _find(store, id_)
    outcome = store.run(
        commands.cancel(job.id, message="Cancelled from the command line.", source="cli")
    )
    if outcome is commands.Cancelled.MISSING:
        raise JobNotFound(f"There is no job {job.id} any more.")
    delayed = outcome is commands.Cancelled.REQUESTED and not _tell_workers(settings, job.id)
    job = store.run(commands.get(job.id)) or job
    if as_json:
        click.echo(_json({"outcome": views.OUTCOMES[outcome], **views.data(job)}))
    else:
        click.echo(views.cancelled(outcome, job, delayed=delayed))


def open_store(settings: Settings) -> JobStore:
    """The job store; raises InvalidSettings when the Redis URL is missing or is none."""
    try:
        return connect(settings)
    except ValueError:
        # Not the value: it may hold a password.
        raise InvalidSettings(
            "BATCHFLOW_REDIS_URL is not a Redis URL. It looks like redis://localhost:6379/0."
        ) from None


def _find(store: JobStore, text: str) -> Job:
    """The job that ``text`` names; raises InvalidInput or JobNotFound."""
    if is_job_id(text):
        job = store.run(commands.get(text))
        if job is None:
            raise JobNotFound(f"There is no job {text}.")
        return job
    if not is_openai_id(text):
        raise InvalidInput(
            "That is no id. A job's looks like bf-mctgn4lcdvhclm2p4qc7gkxbae, "
            "a batch's like batch_68f0c1."
        )
    job_id = store.run(commands.find_batch(text))
    job = store.run(commands.get(job_id)) if job_id else None
    if job is None:
        raise JobNotFound(f"There is no job for the batch {text}.")
    return job


def _matching(
    store: JobStore, states: frozenset[JobState], kinds: frozenset[JobKind]
) -> Iterator[Job]:
    seen: set[str] = set()
    offset = 0
    while ids := store.run(commands.recent(_PAGE, offset=offset)):
        offset += len(ids)
        # A job that changes meanwhile pushes others onto the next page.
        fresh = [job_id for job_id in ids if job_id not in seen]
        seen.update(fresh)
        for job in store.run_all([commands.get(job_id) for job_id in fresh]):
            if job and job.state in states and job.kind in kinds:
                yield job


def _tell_workers(settings: Settings, job_id: str) -> bool:
    try:
        Sender(make_app(settings)).send(Step.CANCEL, job_id)
    except QueueUnavailable:
        # The wish is in the job's record, where the sweep finds it.
        return False
    return True


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2)


def _print(content: Text, *, cut: bool = False) -> None:
    """Print it; ``cut`` cuts lines at the edge of a terminal."""
    console = Console(highlight=False)
    if cut and console.is_terminal:
        console.print(content, no_wrap=True, overflow="ellipsis")
    else:
        console.print(content, soft_wrap=True)
