"""Validation of what users enter, and errors in OpenAI's format."""

from dataclasses import KW_ONLY, dataclass

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import JSONResponse

#: Pydantic's error types -> the type names in OpenAI's messages.
_TYPE_NAMES = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "list_type": "an array",
    "tuple_type": "an array",
}


class InputModel(BaseModel):
    """Input without unknown fields; numbers and strings are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(eq=False)
class ApiError(Exception):
    """An error that the API returns."""

    status: int
    message: str
    _: KW_ONLY
    param: str | None = None
    code: str | None = None
    type: str = "invalid_request_error"

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status)


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """Return the error for an invalid parameter."""
    return ApiError(400, message, param=param, code=code)


def missing(param: str) -> ApiError:
    """Return the error for a required parameter that is not there."""
    return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def not_found(kind: str, object_id: str, *, param: str = "id") -> ApiError:
    """Return the error for an unknown id, or one that belongs to another organization."""
    return ApiError(404, f"No such {kind}: {object_id[:100]}", param=param)


def from_validation(error: ValidationError) -> ApiError:
    """Convert the first validation error to an OpenAI error.

    The message quotes a value only if it is one of a fixed set, so it never contains a secret.
    """
    detail = error.errors(include_url=False)[0]
    kind = detail["type"]
    param = ".".join(str(part) for part in detail["loc"] if part != "[key]") or None
    if kind == "json_invalid":
        return ApiError(400, "We could not parse the JSON body of your request.")
    if param is None and kind in _TYPE_NAMES:
        return ApiError(400, "The JSON body of your request must be an object.")
    if kind == "missing":
        return missing(str(param))
    if kind == "extra_forbidden":
        return invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind == "literal_error":
        supported = f"Supported values are: {detail['ctx']['expected']}."
        return invalid(f"Invalid value: '{str(detail['input'])[:100]}'. {supported}", param)
    if kind in _TYPE_NAMES:
        message = f"Invalid type for '{param}': expected {_TYPE_NAMES[kind]}."
        return invalid(message, param, "invalid_type")
    problem = detail["msg"].removeprefix("Value error, ")
    return invalid(f"{problem}." if param is None else f"Invalid '{param}': {problem}.", param)
