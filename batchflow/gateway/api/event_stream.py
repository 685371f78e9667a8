"""``GET /api/events``: transitions as server-sent events."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Header, Query
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from batchflow.errors import InvalidInput
from batchflow.gateway.api.event_fanout import EventFanout
from batchflow.gateway.api.jobs import SHOWS_TOKEN, problems, schema_of
from batchflow.gateway.connections import from_app
from batchflow.jobs import is_job_id
from batchflow.store.events import EntryId, Transition

logger = logging.getLogger(__name__)

#: The most streams of a process.
MAX_STREAMS: Final = 500
#: The longest time without data, so that proxies keep a stream open.
HEARTBEAT_S = 15.0
#: The time until a browser reconnects, in milliseconds.
_RETRY_MS: Final = 2_000

_RESET: Final = '{"message":"Transitions were missed. Read the jobs again."}'
#: A proxy that buffers events would delay them.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

#: An event, as OpenAPI 3.2 describes it.
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

_EVENT_ID: Final = "The `id` of the last event that was received; the stream continues after it."
_MAX_ID_CHARS: Final = 64


class StreamQuery(BaseModel):
    """The start of the stream, and the job that it is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    last_event_id: str | None = Field(
        None, max_length=_MAX_ID_CHARS, description=f"{_EVENT_ID} The header takes precedence."
    )
    job_id: str | None = Field(
        None, max_length=_MAX_ID_CHARS, description="Only the transitions of this job."
    )


class EventStream(StreamingResponse):
    """A response of chunks with one or more events. FastAPI's own class sends each event by itself,
    through three tasks."""

    media_type = "text/event-stream"


@asynccontextmanager
async def _following(app: FastAPI) -> AsyncIterator[None]:
    fanout = app.state.event_fanout = EventFanout(app.state.connections.store)
    task = asyncio.create_task(fanout.follow())
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        fanout.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


router = APIRouter(tags=["jobs"], dependencies=[SHOWS_TOKEN], lifespan=_following)


async def _fanout_for_client(
    fanout: Annotated[EventFanout, from_app("event_fanout")],
) -> AsyncIterator[EventFanout]:
    if fanout.clients >= MAX_STREAMS:
        raise HTTPException(
            503,
            f"This gateway already serves {MAX_STREAMS} streams.",
            {"Retry-After": "10"},
        )
    fanout.clients += 1
    try:
        yield fanout
    finally:
        fanout.clients -= 1


@router.get(
    "/api/events",
    operation_id="streamTransitions",
    summary="Transitions as they happen",
    response_class=EventStream,
    response_description="Server-sent events, without end.",
    responses={200: {"content": {"text/event-stream": {"itemSchema": _ITEM}}}, **_PROBLEMS},
)
async def stream(
    fanout: Annotated[EventFanout, Depends(_fanout_for_client)],
    query: Annotated[StreamQuery, Query()],
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=_MAX_ID_CHARS, description=_EVENT_ID)
    ] = None,
) -> EventStream:
    """The data of each `transition` event is a `Transition` in JSON. Without an id to continue
    after, the stream begins with the next transition.

    `reset` means that the stream missed transitions that Redis has deleted: read the jobs again.
    The stream continues after it. It stays open while Redis is unavailable.
    """
    given = last_event_id if last_event_id is not None else query.last_event_id
    position = EntryId.parse(given) if given is not None else None
    if query.job_id is not None and not is_job_id(query.job_id):
        raise InvalidInput("job_id is not a valid job id.")
    return EventStream(_events(fanout, position, query.job_id), headers=_HEADERS)


async def _events(
    fanout: EventFanout, position: EntryId | None, job_id: str | None
) -> AsyncIterator[bytes]:
    """The stream after a position, or from now on, in chunks of one or more events."""
    position = position or fanout.end
    clock = asyncio.get_running_loop().time
    # Only the id: a client that is disconnected before the first event continues from here.
    yield format_sse_event(retry=_RETRY_MS, id=str(position) if position else None)
    sent, sent_at_s = position, clock()
    while not fanout.closed:
        found = await fanout.after(position, for_s=HEARTBEAT_S)
        position = found.position
        blocks = []
        if found.missed:
            blocks.append(format_sse_event(event="reset", data_str=_RESET, id=str(position)))
        blocks += [
            format_sse_event(
                event="transition", data_str=entry.transition.model_dump_json(), id=str(entry.id)
            )
            for entry in found.entries
            if entry.transition and job_id in (None, entry.transition.job_id)
        ]
        if not blocks and position and (sent is None or clock() - sent_at_s >= HEARTBEAT_S):
            blocks = [format_sse_event(comment="", id=str(position))]
        if blocks:
            yield b"".join(blocks)
            sent, sent_at_s = position, clock()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("The event streams failed until restart.", exc_info=error)
