"""The control API under `/simulator`: settings, outages, batch ends and statistics.

It requires no API key.
"""

import time
from typing import Any

from pydantic import Field, RootModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchflow.simulator.api.request_reading import read_json
from batchflow.simulator.api_error import ApiError, from_validation, invalid, not_found
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine.batches import NextEnd, ScriptedEnd
from batchflow.simulator.engine.state import SimulatorState
from batchflow.simulator.faults.outages import Outage
from batchflow.simulator.statuses import ENDED, LIVE

#: The maximum number of ends that can be requested in advance.
_MAX_SCRIPTED_ENDS = 100_000


class _NextEnds(NextEnd):
    count: int = Field(default=1, ge=1, le=_MAX_SCRIPTED_ENDS)


class _Changes(RootModel[dict[str, Any]]):
    pass


def _state(request: Request) -> SimulatorState:
    state: SimulatorState = request.app.state.simulator
    return state


async def get_config(request: Request) -> Response:
    """`GET /simulator/config`; secrets are masked."""
    return JSONResponse(_state(request).config.model_dump(mode="json"))


async def patch_config(request: Request) -> Response:
    """`PATCH /simulator/config`: change the given settings."""
    state = _state(request)
    changes = (await read_json(request, _Changes)).root
    try:
        config = SimulatorConfig.model_validate({**dict(state.config), **changes})
    except ValidationError as error:
        raise from_validation(error) from None
    state.configure(config, set(changes))
    return JSONResponse(config.model_dump(mode="json"))


async def reset(request: Request) -> Response:
    await _state(request).reset()
    return JSONResponse({"reset": True})


async def stats(request: Request) -> Response:
    return JSONResponse(_state(request).stats())


async def batches(request: Request) -> Response:
    """`GET /simulator/batches`: the batches of all organizations."""
    now = time.time()
    data = [
        {**batch.to_json(now), "organization": batch.organization}
        for batch in _state(request).batches.all()
    ]
    return JSONResponse({"object": "list", "data": data})


async def files(request: Request) -> Response:
    """`GET /simulator/files`: the files of all organizations."""
    data = [
        {**stored.to_json(), "organization": stored.organization}
        for stored in _state(request).files.all()
    ]
    return JSONResponse({"object": "list", "data": data})


async def get_outages(request: Request) -> Response:
    active = _state(request).outages.active(now=time.time())
    return JSONResponse({"object": "list", "data": [o.model_dump(mode="json") for o in active]})


async def begin_outage(request: Request) -> Response:
    """`POST /simulator/outage`: start an outage beside the active ones."""
    outage = await read_json(request, Outage)
    _state(request).outages.begin(outage, now=time.time())
    return await get_outages(request)


async def end_outages(request: Request) -> Response:
    _state(request).outages.end_all()
    return await get_outages(request)


async def next_batches(request: Request) -> Response:
    """`POST /simulator/next`: add to the queue of ends for the next batches."""
    state = _state(request)
    end = await read_json(request, _NextEnds)
    if end.status in LIVE:
        raise _invalid_end(end.status, "or an undocumented status")
    if len(state.scripted_ends) + end.count > _MAX_SCRIPTED_ENDS:
        message = f"At most {_MAX_SCRIPTED_ENDS} ends can be requested in advance."
        raise ApiError(400, message, param="count")
    state.scripted_ends.extend([end] * end.count)
    return JSONResponse({"ordered": len(state.scripted_ends)})


async def end_batch(request: Request) -> Response:
    """`POST /simulator/batches/{id}/end`: end a batch now; return when it has ended."""
    batch_id: str = request.path_params["id"]
    end = await read_json(request, ScriptedEnd, if_empty=b'{"status": "completed"}')
    batch = _state(request).batches.find(batch_id)
    if batch is None:
        raise not_found("batch", batch_id)
    if end.status not in ENDED:
        raise _invalid_end(end.status)
    if batch.status in ENDED:
        raise ApiError(409, f"The batch has already ended with status '{batch.status}'.")
    batch.scripted_end = None
    batch.interrupt(end)
    await batch.ended.wait()
    return JSONResponse(batch.to_json(time.time()))


def _invalid_end(status: str, rest: str = "") -> ApiError:
    ends = ", ".join(sorted(ENDED))
    message = f"Invalid value: '{status}'. It must be one of {ends} {rest}".rstrip() + "."
    return invalid(message, "status")


ROUTES = [
    Route("/config", get_config, methods=["GET"]),
    Route("/config", patch_config, methods=["PATCH"]),
    Route("/reset", reset, methods=["POST"]),
    Route("/stats", stats, methods=["GET"]),
    Route("/batches", batches, methods=["GET"]),
    Route("/batches/{id}/end", end_batch, methods=["POST"]),
    Route("/files", files, methods=["GET"]),
    Route("/outage", get_outages, methods=["GET"]),
    Route("/outage", begin_outage, methods=["POST"]),
    Route("/outage", end_outages, methods=["DELETE"]),
    Route("/next", next_batches, methods=["POST"]),
]
