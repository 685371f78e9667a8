"""``batchflow watch``: the fleet as it changes, until Ctrl-C."""

import asyncio
import contextlib
import signal

import click
from rich.console import Console
from rich.live import Live

from batchflow.cli import text, watch_screen
from batchflow.cli.filter_options import filtered
from batchflow.cli.store_session import ask
from batchflow.errors import StoreUnavailable
from batchflow.overview.job_filter import JobFilter
from batchflow.overview.job_list import list_jobs
from batchflow.overview.summary import summarize
from batchflow.states import LIVE, JobState
from batchflow.store import AsyncJobStore, events, records

#: Transitions read at once.
_AT_ONCE = 500
#: One in so many lines is for jobs that have ended, if there are as many.
_ENDED_SHARE = 3
_MESSAGE_CHARS = 300


@click.command()
@filtered
@click.option(
    "--interval",
    "interval_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3_600),
    default=1.0,
    show_default=True,
    help="How often to look.",
)
def watch(wanted: JobFilter, interval_s: float) -> None:
    """Watch the fleet and its jobs until Ctrl-C; live jobs first, then those that ended last.

    Without a terminal, each transition from now on is a line.
    """
    console = Console(highlight=False)

    async def watching(store: AsyncJobStore) -> None:
        ended = _ended_by_signals()
        if console.is_interactive:
            await _on_screen(store, wanted, interval_s, ended, console)
        else:
            await _as_lines(store, wanted, interval_s, ended)

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        ask(watching)


def _ended_by_signals() -> asyncio.Event:
    """Ctrl-C and its like cancel what is under way, and are remembered: with Python 3.11, Redis'
    client may lose a cancellation (python/cpython issue 86296)."""
    ended, task = asyncio.Event(), asyncio.current_task()

    def end() -> None:
        ended.set()
        if task:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end)
    return ended


async def _pause(ended: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ended.wait()


async def _on_screen(
    store: AsyncJobStore,
    wanted: JobFilter,
    interval_s: float,
    ended: asyncio.Event,
    console: Console,
) -> None:
    seen: watch_screen.Seen | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not ended.is_set():
            trouble = ""
            try:
                seen = await _look(store, wanted, watch_screen.rows(console.height))
            except StoreUnavailable as error:
                trouble = str(error)
            drawn = watch_screen.frame(seen, trouble, width=console.width, height=console.height)
            live.update(drawn, refresh=True)
            await _pause(ended, interval_s)


async def _look(store: AsyncJobStore, wanted: JobFilter, rows: int) -> watch_screen.Seen:
    states = wanted.state or frozenset(JobState)
    live, ended = [
        (await list_jobs(store, wanted.model_copy(update={"state": part}), limit=rows)).jobs
        if part
        else ()
        for part in (states & LIVE, states - LIVE)
    ]
    for_ended = max(rows - len(live), min(len(ended), rows // _ENDED_SHARE))
    return watch_screen.Seen(
        await summarize(store), [*live[: rows - for_ended], *ended[:for_ended]]
    )


async def _as_lines(
    store: AsyncJobStore, wanted: JobFilter, interval_s: float, ended: asyncio.Event
) -> None:
    place: events.EntryId | None = None
    away = False
    while not ended.is_set():
        try:
            if place is None:
                place = await store.run(events.newest()) or events.BEGINNING
                click.echo("Watching. Each transition from now on is a line.", err=True)
            entries = await store.run(events.entries(place, _AT_ONCE))
            found = [entry.transition for entry in entries if entry.transition]
            told = [_line(each) for each in found if await _takes(store, wanted, each)]
        except StoreUnavailable as error:
            if not away:
                click.echo(f"{text.printable(str(error))} Trying again.", err=True)
            away = True
        else:
            if away:
                click.echo("Redis is back.", err=True)
            away = False
            for line in told:
                click.echo(line)
            if entries:
                place = entries[-1].id
                continue
        await _pause(ended, interval_s)


async def _takes(store: AsyncJobStore, wanted: JobFilter, transition: events.Transition) -> bool:
    """Whether the job, as it was then, is wanted."""
    if wanted == JobFilter():
        return True
    job = await store.run(records.get(transition.job_id))
    then = transition.model_dump(include={"state", "openai_status", "message"})
    return job is not None and wanted.matches(job.model_copy(update=then))


def _line(transition: events.Transition) -> str:
    """``2026-01-01 12:00:00  bf-...  batch  running  in_progress  by poll``, and the message."""
    parts = (
        text.local_time(transition.at),
        transition.job_id,
        f"{transition.kind:<8}",
        f"{transition.state:<9}",
        f"{transition.openai_status or '-':<11}",
        f"by {transition.source}",
        text.one_line(transition.message, _MESSAGE_CHARS),
    )
    return text.printable("  ".join(part for part in parts if part))
