"""Reading what clients send: bodies, queries, credentials. Whatever is wrong is an `ApiError`."""

from typing import TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.errors import ApiError, from_validation

#: The largest JSON body, in bytes.
MAX_JSON_BYTES = 1_000_000
#: The organization of a client that names none.
DEFAULT_ORGANIZATION = "org-default"

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def authenticate(request: Request, config: SimulatorConfig) -> str:
    """The organization that a call is for.

    Raises:
        ApiError: There is no API key, or a refused one.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization "
            "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        raise ApiError(401, message)
    if any(key == refused.get_secret_value() for refused in config.refused_keys):
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
    return request.headers.get("openai-organization", "").strip() or DEFAULT_ORGANIZATION


async def read_body(request: Request) -> bytes:
    """The body of a call that isn't an upload."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise ApiError(413, "The body of your request is too large.")
    return body


async def read_json(request: Request, model: type[M]) -> M:
    """The JSON body as a model."""
    try:
        return model.model_validate_json(await read_body(request))
    except ValidationError as error:
        raise from_validation(error) from None


async def read_as(request: Request, adapter: TypeAdapter[T]) -> T:
    """The JSON body as what an adapter makes of it."""
    try:
        return adapter.validate_json(await read_body(request))
    except ValidationError as error:
        raise from_validation(error) from None


async def read_object(request: Request) -> dict[str, object]:
    """The JSON body, which has to be an object."""
    try:
        body = orjson.loads(await read_body(request))
    except orjson.JSONDecodeError:
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The JSON body of your request has to be an object.")
    return body


def limit_of(request: Request, *, default: int, highest: int) -> int:
    """The `limit` of a list call."""
    given = request.query_params.get("limit")
    if given is None:
        return default
    try:
        limit = int(given[:10])
    except ValueError:
        message = "Invalid type for 'limit': expected an integer, but got a string instead."
        raise ApiError(400, message, param="limit", code="invalid_type") from None
    if limit < 1:
        message = (
            f"Invalid 'limit': integer below minimum value. Expected a value >= 1, got {limit}."
        )
        raise ApiError(400, message, param="limit", code="integer_below_min_value")
    if limit > highest:
        message = (
            f"Invalid 'limit': integer above maximum value. "
            f"Expected a value <= {highest}, got {limit}."
        )
        raise ApiError(400, message, param="limit", code="integer_above_max_value")
    return limit
