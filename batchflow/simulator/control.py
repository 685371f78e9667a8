"""The control API under `/simulator`: settings, orders, counts. It needs no API key."""

import time
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchflow.simulator.batches import Fate
from batchflow.simulator.config import LONGEST_S, SimulatorConfig
from batchflow.simulator.errors import ApiError, from_validation, not_found
from batchflow.simulator.faults import Outage
from batchflow.simulator.requests import read_body, read_json, read_object
from batchflow.simulator.state import Simulator
from batchflow.simulator.statuses import ENDED, LIVE

#: The most batches whose end can be ordered ahead.
_MAX_FATES = 100_000


class Order(BaseModel):
    """The end of a batch."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    status: str = Field(min_length=1, max_length=64)
    code: str | None = Field(default=None, min_length=1, max_length=100)
    message: str | None = Field(default=None, max_length=1000)
    done_share: float | None = Field(default=None, ge=0, le=1)

    def fate(self, shown_s: float | None = None) -> Fate:
        """What the batch is to come to."""
        return Fate(self.status, self.code, self.message, self.done_share, shown_s)


class NextOrder(Order):
    """What the next batches come to."""

    count: int = Field(default=1, ge=1, le=_MAX_FATES)
    shown_s: Annotated[float, Field(ge=0, le=LONGEST_S)] | None = None


def _simulator(request: Request) -> Simulator:
    simulator: Simulator = request.app.state.simulator
    return simulator


def _config_json(config: SimulatorConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


async def get_config(request: Request) -> Response:
    """`GET /simulator/config`; secrets are masked."""
    return JSONResponse(_config_json(_simulator(request).config))


async def patch_config(request: Request) -> Response:
    """`PATCH /simulator/config`: changes the settings that are given."""
    simulator = _simulator(request)
    changes = await read_object(request)
    current = {name: getattr(simulator.config, name) for name in SimulatorConfig.model_fields}
    try:
        config = SimulatorConfig.model_validate({**current, **changes})
    except ValidationError as error:
        raise from_validation(error) from None
    simulator.configure(config, set(changes))
    return JSONResponse(_config_json(config))


async def reset(request: Request) -> Response:
    """`POST /simulator/reset`."""
    await _simulator(request).reset()
    return JSONResponse({"reset": True})


async def stats(request: Request) -> Response:
    """`GET /simulator/stats`."""
    return JSONResponse(_simulator(request).stats())


async def batches(request: Request) -> Response:
    """`GET /simulator/batches`: those of all organizations, oldest first in each."""
    now = time.time()
    data = [
        {**batch.to_json(now), "organization": batch.organization}
        for batch in _simulator(request).all_batches()
    ]
    return JSONResponse({"object": "list", "data": data})


async def files(request: Request) -> Response:
    """`GET /simulator/files`: those of all organizations, oldest first in each."""
    data = [
        {**stored.to_json(), "organization": stored.organization}
        for stored in _simulator(request).files.everything()
    ]
    return JSONResponse({"object": "list", "data": data})


async def get_outages(request: Request) -> Response:
    """`GET /simulator/outage`."""
    return _outages(_simulator(request))


async def begin_outage(request: Request) -> Response:
    """`POST /simulator/outage`: adds one to those that are going on."""
    simulator = _simulator(request)
    simulator.faults.begin(await read_json(request, Outage), now=time.time())
    return _outages(simulator)


async def end_outages(request: Request) -> Response:
    """`DELETE /simulator/outage`."""
    simulator = _simulator(request)
    simulator.faults.end_all()
    return _outages(simulator)


def _outages(simulator: Simulator) -> Response:
    going_on = simulator.faults.going_on(now=time.time())
    return JSONResponse({"object": "list", "data": [o.model_dump(mode="json") for o in going_on]})


async def next_batches(request: Request) -> Response:
    """`POST /simulator/next`: what the next batches come to, after those ordered before."""
    simulator = _simulator(request)
    order = await read_json(request, NextOrder)
    if order.status in LIVE:
        raise _not_an_end(order.status, "or one that OpenAI doesn't list")
    if len(simulator.fates) + order.count > _MAX_FATES:
        raise ApiError(400, f"At most {_MAX_FATES} batches can be ordered ahead.", param="count")
    simulator.fates.extend([order.fate(order.shown_s)] * order.count)
    return JSONResponse({"ordered": len(simulator.fates)})


async def end_batch(request: Request) -> Response:
    """`POST /simulator/batches/{id}/end`: ends a live batch now, and answers when it has ended."""
    simulator = _simulator(request)
    batch_id: str = request.path_params["batch_id"]
    body = await read_body(request)
    try:
        order = Order.model_validate_json(body or b'{"status": "completed"}')
    except ValidationError as error:
        raise from_validation(error) from None
    batch = simulator.find_batch(batch_id)
    if batch is None:
        raise not_found("batch", batch_id)
    if order.status not in ENDED:
        raise _not_an_end(order.status)
    if batch.status in ENDED:
        raise ApiError(409, f"The batch has already ended with status '{batch.status}'.")
    batch.fate = None
    batch.interrupt(order.fate())
    await batch.ended.wait()
    return JSONResponse(batch.to_json(time.time()))


def _not_an_end(status: str, rest: str = "") -> ApiError:
    ends = ", ".join(sorted(ENDED))
    message = f"Invalid value: '{status}'. It has to be one of {ends} {rest}".rstrip() + "."
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
