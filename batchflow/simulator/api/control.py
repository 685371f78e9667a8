"""The control API under `/simulator`: settings, outages, batch ends and statistics.

It requires no API key.
"""

import time
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchflow.simulator.api.request_reading import read_body, read_json, read_object
from batchflow.simulator.api_error import ApiError, from_validation, not_found
from batchflow.simulator.config import MAX_DURATION_S, SimulatorConfig
from batchflow.simulator.engine.batches import ScriptedEnd
from batchflow.simulator.engine.state import SimulatorState
from batchflow.simulator.faults.outages import Outage
from batchflow.simulator.statuses import ENDED, LIVE

#: The maximum number of ends that can be requested in advance.
_MAX_SCRIPTED_ENDS = 100_000


class EndRequest(BaseModel):
    """The requested end of a batch."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    status: str = Field(min_length=1, max_length=64)
    code: str | None = Field(default=None, min_length=1, max_length=100)
    message: str | None = Field(default=None, max_length=1000)
    done_share: float | None = Field(default=None, ge=0, le=1)

    def to_scripted_end(self, shown_s: float | None = None) -> ScriptedEnd:
        """Convert to the engine's type."""
        return ScriptedEnd(self.status, self.code, self.message, self.done_share, shown_s)


class NextEndsRequest(EndRequest):
    """The requested end of the next `count` batches."""

    count: int = Field(default=1, ge=1, le=_MAX_SCRIPTED_ENDS)
    shown_s: Annotated[float, Field(ge=0, le=MAX_DURATION_S)] | None = None


def _state(request: Request) -> SimulatorState:
    state: SimulatorState = request.app.state.simulator
    return state


def _config_json(config: SimulatorConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


async def get_config(request: Request) -> Response:
    """`GET /simulator/config`; secrets are masked."""
    return JSONResponse(_config_json(_state(request).config))


async def patch_config(request: Request) -> Response:
    """`PATCH /simulator/config`: change the given settings."""
    state = _state(request)
    changes = await read_object(request)
    current = {name: getattr(state.config, name) for name in SimulatorConfig.model_fields}
    try:
        config = SimulatorConfig.model_validate({**current, **changes})
    except ValidationError as error:
        raise from_validation(error) from None
    state.configure(config, set(changes))
    return JSONResponse(_config_json(config))


async def reset(request: Request) -> Response:
    """`POST /simulator/reset`."""
    await _state(request).reset()
    return JSONResponse({"reset": True})


async def stats(request: Request) -> Response:
    """`GET /simulator/stats`."""
    return JSONResponse(_state(request).stats())


async def batches(request: Request) -> Response:
    """`GET /simulator/batches`: the batches of all organizations."""
    now = time.time()
    data = [
        {**batch.to_json(now), "organization": batch.organization}
        for batch in _state(request).all_batches()
    ]
    return JSONResponse({"object": "list", "data": data})


async def files(request: Request) -> Response:
    """`GET /simulator/files`: the files of all organizations."""
    data = [
        {**stored.to_json(), "organization": stored.organization}
        for stored in _state(request).files.all_files()
    ]
    return JSONResponse({"object": "list", "data": data})


async def get_outages(request: Request) -> Response:
    """`GET /simulator/outage`."""
    return _outages_response(_state(request))


async def begin_outage(request: Request) -> Response:
    """`POST /simulator/outage`: start an outage beside the active ones."""
    state = _state(request)
    state.outages.begin(await read_json(request, Outage), now=time.time())
    return _outages_response(state)


async def end_outages(request: Request) -> Response:
    """`DELETE /simulator/outage`."""
    state = _state(request)
    state.outages.end_all()
    return _outages_response(state)


def _outages_response(state: SimulatorState) -> Response:
    active = state.outages.active(now=time.time())
    return JSONResponse(
        {"object": "list", "data": [outage.model_dump(mode="json") for outage in active]}
    )


async def next_batches(request: Request) -> Response:
    """`POST /simulator/next`: add to the queue of ends for the next batches."""
    state = _state(request)
    end = await read_json(request, NextEndsRequest)
    if end.status in LIVE:
        raise _invalid_end(end.status, "or an undocumented status")
    if len(state.scripted_ends) + end.count > _MAX_SCRIPTED_ENDS:
        raise ApiError(
            400, f"At most {_MAX_SCRIPTED_ENDS} ends can be requested in advance.", param="count"
        )
    state.scripted_ends.extend([end.to_scripted_end(end.shown_s)] * end.count)
    return JSONResponse({"ordered": len(state.scripted_ends)})


async def end_batch(request: Request) -> Response:
    """`POST /simulator/batches/{id}/end`: end a batch now; return when it has ended."""
    state = _state(request)
    batch_id: str = request.path_params["batch_id"]
    body = await read_body(request)
    try:
        end = EndRequest.model_validate_json(body or b'{"status": "completed"}')
    except ValidationError as error:
        raise from_validation(error) from None
    batch = state.find_batch(batch_id)
    if batch is None:
        raise not_found("batch", batch_id)
    if end.status not in ENDED:
        raise _invalid_end(end.status)
    if batch.status in ENDED:
        raise ApiError(409, f"The batch has already ended with status '{batch.status}'.")
    batch.scripted_end = None
    batch.interrupt(end.to_scripted_end())
    await batch.ended.wait()
    return JSONResponse(batch.to_json(time.time()))


def _invalid_end(status: str, rest: str = "") -> ApiError:
    ends = ", ".join(sorted(ENDED))
    message = f"Invalid value: '{status}'. It must be one of {ends} {rest}".rstrip() + "."
    return ApiError(400, message, param="status", code="invalid_value")


ROUTES = [
    Route("/config", get_config, methods=["GET"]),
    Route("/config", patch_config, methods=["PATCH"]),
    Route("/reset", reset, methods=["POST"]),
    Route("/stats", stats, methods=["GET"]),
    Route("/batches", batches, methods=["GET"]),
    Route("/batches/{batch_id}/end", end_batch, methods=["POST"]),
    Route("/files", files, methods=["GET"]),
    Route("/outage", get_outages, methods=["GET"]),
    Route("/outage", begin_outage, methods=["POST"]),
    Route("/outage", end_outages, methods=["DELETE"]),
    Route("/next", next_batches, methods=["POST"]),
]
