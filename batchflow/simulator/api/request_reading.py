"""Read API keys and JSON bodies. Invalid input raises `ApiError`."""

from typing import TypeVar

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


async def read_json(request: Request, model: type[M], *, if_empty: bytes = b"") -> M:
    """Read a JSON body of up to `MAX_JSON_BYTES`."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise ApiError(413, "The body of your request is too large.")
    try:
        return model.model_validate_json(body or if_empty)
    except ValidationError as error:
        raise from_validation(error) from None
