"""Read API keys and JSON bodies. Invalid input raises `ApiError`."""

from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from batchflow.simulator.api_error import ApiError, from_validation
from batchflow.simulator.config import SimulatorConfig

#: The largest JSON body, in bytes.
MAX_JSON_BYTES = 1_000_000
#: The organization of a request without an `OpenAI-Organization` header.
DEFAULT_ORGANIZATION = "org-default"

M = TypeVar("M", bound=BaseModel)


def authenticate(request: Request, config: SimulatorConfig) -> str:
    """Return the organization of the caller.

    Raises:
        ApiError: The API key is missing or refused.
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
    """Read a body of up to `MAX_JSON_BYTES`."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise ApiError(413, "The body of your request is too large.")
    return body


async def read_json(request: Request, model: type[M]) -> M:
    """Read the JSON body as a model."""
    try:
        return model.model_validate_json(await read_body(request))
    except ValidationError as error:
        raise from_validation(error) from None


async def read_object(request: Request) -> dict[str, object]:
    """Read the JSON body, which must be an object."""
    try:
        body = orjson.loads(await read_body(request))
    except orjson.JSONDecodeError:
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The JSON body of your request must be an object.")
    return body
