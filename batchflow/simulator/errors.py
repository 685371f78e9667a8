"""Errors in the shape in which OpenAI answers them."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import JSONResponse

#: How pydantic's names of types read in OpenAI's messages.
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
    """Raised when a call is refused; carries what OpenAI would answer."""

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
        """The JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), status_code=self.status)


def not_found(kind: str, object_id: str, *, param: str = "id") -> ApiError:
    """The answer about an id that doesn't exist, or belongs to another organization."""
    return ApiError(404, f"No such {kind}: {object_id[:100]}", param=param)


def from_validation(error: ValidationError) -> ApiError:
    """Say what is wrong with a request's body as OpenAI does: the first problem, with its place.

    The value itself is quoted only where it has to be one of a few, so that a secret never is.
    """
    detail = error.errors(include_url=False)[0]
    kind = detail["type"]
    param = ".".join(str(part) for part in detail["loc"] if part != "[key]") or None
    if kind == "json_invalid":
        return ApiError(400, "We could not parse the JSON body of your request.")
    if param is None and kind in _TYPE_NAMES:
        return ApiError(400, "The JSON body of your request has to be an object.")
    if kind == "missing":
        return _refusal(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    if kind == "extra_forbidden":
        return _refusal(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind == "literal_error":
        return _refusal(_not_one_of(detail), param, "invalid_value")
    if kind in _TYPE_NAMES:
        message = f"Invalid type for '{param}': expected {_TYPE_NAMES[kind]}."
        return _refusal(message, param, "invalid_type")
    problem = detail["msg"].removeprefix("Value error, ")
    message = problem if param is None else f"Invalid '{param}': {problem}"
    return _refusal(f"{message}.", param, "invalid_value")


def _refusal(message: str, param: str | None, code: str) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def _not_one_of(detail: ErrorDetails) -> str:
    given = str(detail["input"])[:100]
    return f"Invalid value: '{given}'. Supported values are: {detail['ctx']['expected']}."
