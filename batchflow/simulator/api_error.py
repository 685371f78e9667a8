"""Errors in OpenAI's format."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails
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


class ApiError(Exception):
    """An error that the API returns."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",  # noqa: A002 - OpenAI's name of the field
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.type = type

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body(), status_code=self.status)


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
        return _bad_request(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    if kind == "extra_forbidden":
        return _bad_request(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind == "literal_error":
        return _bad_request(_unsupported_value(detail), param, "invalid_value")
    if kind in _TYPE_NAMES:
        message = f"Invalid type for '{param}': expected {_TYPE_NAMES[kind]}."
        return _bad_request(message, param, "invalid_type")
    problem = detail["msg"].removeprefix("Value error, ")
    message = problem if param is None else f"Invalid '{param}': {problem}"
    return _bad_request(f"{message}.", param, "invalid_value")


def _bad_request(message: str, param: str | None, code: str) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def _unsupported_value(detail: ErrorDetails) -> str:
    given = str(detail["input"])[:100]
    return f"Invalid value: '{given}'. Supported values are: {detail['ctx']['expected']}."
