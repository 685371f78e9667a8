"""``batchflow watch``: the fleet as it changes, until Ctrl-C."""

import asyncio
import contextlib
import signal

import click
from rich.console import Console
from rich.live import Live

from batchflow.cli.options import filter_options
from batchflow.cli.store_session import with_store
from batchflow.cli.watch_screen import FleetView, job_rows, screen
from batchflow.errors import StoreUnavailable
from batchflow.overview.formatting import local_time
from batchflow.overview.job_filter import JobFilter
from batchflow.overview.job_list import list_jobs
from batchflow.overview.summary import summarize
from batchflow.overview.untrusted_text import one_line, printable
from batchflow.states import LIVE, JobState
from batchflow.store import AsyncJobStore, events, records

#: Transitions per read.
_READ_AT_ONCE = 500
#: One row in this many is reserved for jobs that have ended.
_ENDED_SHARE = 3
_MESSAGE_CHARS = 300


@click.command()
@filter_options
@click.option(
    "--interval",
    "interval_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3_600),
    default=1.0,
    show_default=True,
    help="Time between two updates.",
)
def watch(wanted: JobFilter, interval_s: float) -> None:
    """Watch the fleet and its jobs until Ctrl-C.

    Live jobs come first, then the most recently ended ones. If the output is not a terminal, print
    one line per transition instead.
    """
    console = Console(highlight=False)

    async def follow(store: AsyncJobStore) -> None:
        stopped = _stopped_by_signals()
        if console.is_interactive:
            await _update_screen(store, wanted, interval_s, stopped, console)
        else:
            await _print_transitions(store, wanted, interval_s, stopped)

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        with_store(follow)


def _stopped_by_signals() -> asyncio.Event:
    """Return an event that signals set when they cancel this task.

    The cancellation alone is not enough: with Python 3.11, Redis' client may swallow it
    (python/cpython issue 86296).
    """
    stopped, task = asyncio.Event(), asyncio.current_task()

    def stop() -> None:
        stopped.set()
        if task:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopped


async def _pause(stopped: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopped.wait()


async def _update_screen(
    store: AsyncJobStore,
    wanted: JobFilter,
    interval_s: float,
    stopped: asyncio.Event,
    console: Console,
) -> None:
    view: FleetView | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not stopped.is_set():
            problem = ""
            try:
                view = await _read_view(store, wanted, job_rows(console.height))
            except StoreUnavailable as error:
                problem = str(error)
            content = screen(view, problem, width=console.width, height=console.height)
            live.update(content, refresh=True)
            await _pause(stopped, interval_s)


async def _read_view(store: AsyncJobStore, wanted: JobFilter, rows: int) -> FleetView:
    states = wanted.state or frozenset(JobState)
    live, ended = [
        (await list_jobs(store, wanted.model_copy(update={"state": part}), limit=rows)).jobs
        if part
        else ()
        for part in (states & LIVE, states - LIVE)
    ]
    for_ended = max(rows - len(live), min(len(ended), rows // _ENDED_SHARE))
    return FleetView(await summarize(store), [*live[: rows - for_ended], *ended[:for_ended]])


async def _print_transitions(
    store: AsyncJobStore, wanted: JobFilter, interval_s: float, stopped: asyncio.Event
) -> None:
    last_id: events.EntryId | None = None
    unavailable = False
    while not stopped.is_set():
        try:
            if last_id is None:
                last_id = await store.run(events.newest()) or events.BEGINNING
                click.echo("Watching. Each transition is printed as one line.", err=True)
            entries = await store.run(events.entries(last_id, _READ_AT_ONCE))
            transitions = [entry.transition for entry in entries if entry.transition]
            lines = [_line(each) for each in transitions if await _matches(store, wanted, each)]
        except StoreUnavailable as error:
            if not unavailable:
                click.echo(f"{printable(str(error))} Retrying.", err=True)
            unavailable = True
        else:
            if unavailable:
                click.echo("Redis is available again.", err=True)
            unavailable = False
            for line in lines:
                click.echo(line)
            if entries:
                last_id = entries[-1].id
                continue
        await _pause(stopped, interval_s)


async def _matches(store: AsyncJobStore, wanted: JobFilter, transition: events.Transition) -> bool:
    """Return whether the filter selects the job as it was after the transition."""
    if wanted == JobFilter():
        return True
    job = await store.run(records.get(transition.job_id))
    then = transition.model_dump(include={"state", "openai_status", "message"})
    return job is not None and wanted.matches(job.model_copy(update=then))


def _line(transition: events.Transition) -> str:
    """``2026-01-01 12:00:00  bf-...  batch  running  in_progress  by poll``, and the message."""
    parts = (
        local_time(transition.at),
        transition.job_id,
        f"{transition.kind:<8}",
        f"{transition.state:<9}",
        f"{transition.openai_status or '-':<11}",
        f"by {transition.source}",
        one_line(transition.message, _MESSAGE_CHARS),
    )
    return printable("  ".join(part for part in parts if part))
