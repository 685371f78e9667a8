"""OpenAI's Batch API."""

import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batchflow.simulator import ids
from batchflow.simulator.batches import Batch, Fate
from batchflow.simulator.errors import ApiError, not_found
from batchflow.simulator.requests import limit_of, read_json
from batchflow.simulator.state import Simulator
from batchflow.simulator.statuses import ENDED

_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100

_Key = Annotated[str, StringConstraints(max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]


class OutputExpiresAfter(BaseModel):
    """When a batch's output and error files expire."""

    model_config = ConfigDict(extra="forbid", strict=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class CreateBatch(BaseModel):
    """The body of `POST /v1/batches`: `openai.types.BatchCreateParams`."""

    model_config = ConfigDict(extra="forbid", strict=True)

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


async def create(simulator: Simulator, request: Request, organization: str) -> Response:
    """`POST /v1/batches`."""
    wanted = await read_json(request, CreateBatch)
    stored = simulator.files.of(organization).get(wanted.input_file_id)
    if stored is None:
        message = f"No such File object: {wanted.input_file_id[:100]}"
        raise ApiError(400, message, param="input_file_id", code="invalid_value")
    if stored.purpose != "batch":
        message = f"The file {stored.id} has the purpose '{stored.purpose}', not 'batch'."
        raise ApiError(400, message, param="input_file_id", code="invalid_value")
    expiry = wanted.output_expires_after
    batch = Batch(
        id=ids.new_id("batch"),
        organization=organization,
        endpoint=wanted.endpoint,
        input_file_id=stored.id,
        completion_window=wanted.completion_window,
        metadata=wanted.metadata,
        output_expires_after_s=None if expiry is None else expiry.seconds,
        created_at=time.time(),
        config=simulator.config,
        fate=simulator.fates.popleft() if simulator.fates else None,
    )
    simulator.add_batch(batch)
    return _shown(batch)


async def list_(simulator: Simulator, request: Request, organization: str) -> Response:
    """`GET /v1/batches`, newest first."""
    limit = limit_of(request, default=_DEFAULT_LIMIT, highest=_MAX_LIMIT)
    after = request.query_params.get("after")
    try:
        page = simulator.batches_of(organization).page(after=after, limit=limit, newest_first=True)
    except KeyError:
        raise not_found("batch", after or "", param="after") from None
    now = time.time()
    return JSONResponse(
        {
            "object": "list",
            "data": [batch.to_json(now) for batch in page.items],
            "first_id": page.items[0].id if page.items else None,
            "last_id": page.items[-1].id if page.items else None,
            "has_more": page.has_more,
        }
    )


async def retrieve(simulator: Simulator, request: Request, organization: str) -> Response:
    """`GET /v1/batches/{id}`."""
    return _shown(_find(simulator, request, organization))


async def cancel(simulator: Simulator, request: Request, organization: str) -> Response:
    """`POST /v1/batches/{id}/cancel`: `cancelling` at once, `cancelled` later."""
    batch = _find(simulator, request, organization)
    if batch.status in ENDED:
        message = f"Cannot cancel a batch with status '{batch.status}'."
        raise ApiError(409, message)
    if batch.status != "cancelling":
        now = time.time()
        batch.stopped_at = batch.done_at(now)
        batch.enter("cancelling", now)
        batch.interrupt(Fate("cancelled"))
    return _shown(batch)


def _find(simulator: Simulator, request: Request, organization: str) -> Batch:
    batch_id: str = request.path_params["batch_id"]
    batch = simulator.batches_of(organization).get(batch_id)
    if batch is None:
        raise not_found("batch", batch_id)
    return batch


def _shown(batch: Batch) -> Response:
    return JSONResponse(batch.to_json(time.time()))
