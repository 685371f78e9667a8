"""``GET /api/events``: every transition as a server-sent event, as it happens."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from batchflow.errors import InvalidInput
from batchflow.gateway.api.event_fanout import EventFanout
from batchflow.gateway.api.models import SHOWS_TOKEN, problems, schema_of
from batchflow.jobs import is_job_id
from batchflow.store.events import EntryId, Transition

logger = logging.getLogger(__name__)

#: Streams that one process serves at a time.
MOST_STREAMS: Final = 500
#: Something is sent at least this often, so that proxies keep a stream open.
HEARTBEAT_S = 15.0
#: How long a browser waits before it connects again, in milliseconds.
_RETRY_MS: Final = 2_000

_RESET: Final = '{"message":"Transitions were missed. Read the jobs again."}'
#: A proxy that collected events would make them late.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

#: How OpenAPI 3.2 describes an event, and where errors are not a stream.
_ITEM: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["transition", "reset"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": schema_of(Transition),
        },
    },
}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": problem["description"],
        "content": {"application/json": {"schema": schema_of(problem["model"])}},
    }
    for status, problem in problems(400).items()
}

_EVENT_ID: Final = "The `id` of the last event that was seen; the stream goes on after it."
_MOST_CHARS: Final = 64


class StreamAsked(BaseModel):
    """From where on, and about what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    last_event_id: str | None = Field(
        None, max_length=_MOST_CHARS, description=f"{_EVENT_ID} The header goes before it."
    )
    job_id: str | None = Field(
        None, max_length=_MOST_CHARS, description="Only the transitions of this job."
    )


class EventStream(StreamingResponse):
    """Pieces of one or more events. FastAPI's own class sends each one by itself, through three
    tasks."""

    media_type = "text/event-stream"


@asynccontextmanager
async def _following(app: FastAPI) -> AsyncIterator[None]:
    fanout = app.state.fanout = EventFanout(app.state.context.store)
    task = asyncio.create_task(fanout.follow())
    task.add_done_callback(_say_why_it_ended)
    try:
        yield
    finally:
        fanout.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


router = APIRouter(tags=["jobs"], dependencies=[SHOWS_TOKEN], lifespan=_following)


def end_streams(app: FastAPI) -> None:
    """End all streams: a server that shuts down would wait for them, and they never end."""
    app.state.fanout.close()


async def _feed_for_one(request: Request) -> AsyncIterator[EventFanout]:
    fanout: EventFanout = request.app.state.fanout
    if fanout.clients >= MOST_STREAMS:
        raise HTTPException(
            503,
            f"This gateway has {MOST_STREAMS} streams open, and serves no more.",
            {"Retry-After": "10"},
        )
    with fanout.client():
        yield fanout


@router.get(
    "/api/events",
    operation_id="streamTransitions",
    summary="Transitions as they happen",
    response_class=EventStream,
    response_description="Server-sent events, without end.",
    responses={200: {"content": {"text/event-stream": {"itemSchema": _ITEM}}}, **_PROBLEMS},
)
async def stream(
    fanout: Annotated[EventFanout, Depends(_feed_for_one)],
    asked: Annotated[StreamAsked, Query()],
    last_seen: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=_MOST_CHARS, description=_EVENT_ID)
    ] = None,
) -> EventStream:
    """Each `transition` event has a `Transition` in JSON as its data, and an id. Without an id to
    go on after, the stream begins with what happens next.

    `reset` says that transitions were missed that are not kept any more: read the jobs again.
    The stream goes on behind it. While Redis is away, it stays open.
    """
    given = last_seen if last_seen is not None else asked.last_event_id
    place = EntryId.parse(given) if given is not None else None
    if asked.job_id is not None and not is_job_id(asked.job_id):
        raise InvalidInput("job_id must be the id of a job.")
    return EventStream(_events(fanout, place, asked.job_id), headers=_HEADERS)


async def _events(
    fanout: EventFanout, place: EntryId | None, job_id: str | None
) -> AsyncIterator[bytes]:
    """The stream from a place on, or from now on, in pieces of one or more events."""
    place = place or fanout.end
    clock = asyncio.get_running_loop().time
    # The id alone: whoever is cut off before the first event goes on from here all the same.
    yield format_sse_event(retry=_RETRY_MS, id=str(place) if place else None)
    told, told_at_s = place, clock()
    while not fanout.closed:
        found = await fanout.after(place, for_s=HEARTBEAT_S)
        place = found.place
        blocks = [_reset(place)] if found.missed else []
        blocks += [
            _block(entry.id, entry.transition)
            for entry in found.entries
            if entry.transition and job_id in (None, entry.transition.job_id)
        ]
        if not blocks and place and (told is None or clock() - told_at_s >= HEARTBEAT_S):
            blocks = [format_sse_event(comment="", id=str(place))]
        if blocks:
            yield b"".join(blocks)
            told, told_at_s = place, clock()


def _block(entry_id: EntryId, transition: Transition) -> bytes:
    return format_sse_event(
        event="transition", data_str=transition.model_dump_json(), id=str(entry_id)
    )


def _reset(place: EntryId | None) -> bytes:
    return format_sse_event(event="reset", data_str=_RESET, id=str(place))


def _say_why_it_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("No stream gets transitions any more.", exc_info=error)
