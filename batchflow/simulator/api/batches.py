"""OpenAI's Batch API."""

import time
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batchflow.simulator.api.paging import find, list_page
from batchflow.simulator.api.request_reading import read_json
from batchflow.simulator.api_error import ApiError, InputModel, invalid
from batchflow.simulator.engine import ids
from batchflow.simulator.engine.batches import Batch, ScriptedEnd
from batchflow.simulator.engine.state import SimulatorState
from batchflow.simulator.statuses import ENDED

#: What error messages call the objects.
_KIND = "batch"

_Key = Annotated[str, StringConstraints(max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]


class OutputExpiresAfter(InputModel):
    """When a batch's output and error files expire."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class CreateBatch(InputModel):
    """The body of `POST /v1/batches`: `openai.types.BatchCreateParams`."""

    completion_window: Literal["24h"]
    endpoint: Literal[
        "/v1/responses",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/completions",
        "/v1/moderations",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/videos",
    ]
    input_file_id: str
    metadata: Annotated[dict[_Key, _Value], Field(max_length=16)] | None = None
    output_expires_after: OutputExpiresAfter | None = None


async def create(state: SimulatorState, request: Request, organization: str) -> Response:
    params = await read_json(request, CreateBatch)
    stored = state.files.of(organization).get(params.input_file_id)
    if stored is None:
        raise invalid(f"No such File object: {params.input_file_id[:100]}", "input_file_id")
    if stored.purpose != "batch":
        message = f"The file {stored.id} has the purpose '{stored.purpose}', not 'batch'."
        raise invalid(message, "input_file_id")
    expiry = params.output_expires_after
    batch = Batch(
        id=ids.new_id("batch"),
        organization=organization,
        endpoint=params.endpoint,
        input_file_id=stored.id,
        completion_window=params.completion_window,
        metadata=params.metadata,
        output_expires_after_s=None if expiry is None else expiry.seconds,
        created_at=time.time(),
        config=state.config,
        scripted_end=state.scripted_ends.popleft() if state.scripted_ends else None,
    )
    state.add_batch(batch)
    return _batch_response(batch)


async def list_(state: SimulatorState, request: Request, organization: str) -> Response:
    """`GET /v1/batches`, newest first."""
    now = time.time()
    batches = state.batches.of(organization)
    return list_page(request, batches, lambda batch: batch.to_json(now), kind=_KIND)


async def retrieve(state: SimulatorState, request: Request, organization: str) -> Response:
    return _batch_response(find(request, state.batches.of(organization), _KIND))


async def cancel(state: SimulatorState, request: Request, organization: str) -> Response:
    """`POST /v1/batches/{id}/cancel`: `cancelling` at once, `cancelled` later."""
    batch = find(request, state.batches.of(organization), _KIND)
    if batch.status in ENDED:
        raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.")
    if batch.status != "cancelling":
        now = time.time()
        batch.requests_run = batch.done_at(now)
        batch.enter("cancelling", now)
        batch.interrupt(ScriptedEnd(status="cancelled"))
    return _batch_response(batch)


def _batch_response(batch: Batch) -> Response:
    return JSONResponse(batch.to_json(time.time()))
