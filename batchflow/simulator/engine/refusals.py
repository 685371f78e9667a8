"""Requests of a batch that OpenAI's models would answer with an error."""

from collections.abc import Mapping
from typing import Any

from batchflow.simulator.api_error import ApiError, invalid, missing
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine import ids

#: Models whose name begins so don't exist.
MISSING_MODEL_PREFIX = "no-such"

#: The required parameter of each endpoint, besides `model`.
_REQUIRED = {
    "/v1/chat/completions": "messages",
    "/v1/responses": "input",
    "/v1/embeddings": "input",
    "/v1/completions": "prompt",
    "/v1/moderations": "input",
    "/v1/images/generations": "prompt",
    "/v1/images/edits": "prompt",
    "/v1/videos": "prompt",
}

_Body = Mapping[str, Any]

#: Numeric parameters: (name, minimum, maximum, whether it must be an integer).
_NUMBERS: tuple[tuple[str, float, float, bool], ...] = (
    ("temperature", 0, 2, False),
    ("top_p", 0, 1, False),
    ("presence_penalty", -2, 2, False),
    ("frequency_penalty", -2, 2, False),
    ("n", 1, 128, True),
    ("max_tokens", 1, 1_000_000, True),
    ("max_completion_tokens", 1, 1_000_000, True),
    ("max_output_tokens", 1, 1_000_000, True),
    ("dimensions", 1, 3072, True),
)


def refusal(endpoint: str, custom_id: str, body: _Body, config: SimulatorConfig) -> ApiError | None:
    """Return the error of a request, or `None` if it succeeds; the result is deterministic."""
    return (
        _check_model(endpoint, body)
        or _check_content(endpoint, body)
        or _check_numbers(body)
        or _check_stream(body)
        or _fail_share(custom_id, config)
    )


def _check_model(endpoint: str, body: _Body) -> ApiError | None:
    model = body.get("model")
    if model is None and endpoint == "/v1/moderations":
        return None
    if not isinstance(model, str) or not model:
        return ApiError(400, "you must provide a model parameter")
    if model.startswith(MISSING_MODEL_PREFIX):
        message = f"The model `{model}` does not exist or you do not have access to it."
        return ApiError(404, message, param="model", code="model_not_found")
    return None


def _check_content(endpoint: str, body: _Body) -> ApiError | None:
    name = _REQUIRED[endpoint]
    content = body.get(name)
    if content is None:
        return missing(name)
    if name == "messages":
        return _check_messages(content)
    if not isinstance(content, str | list):
        message = f"Invalid type for '{name}': expected one of a string or array."
        return invalid(message, name, "invalid_type")
    if content == [] or (content == "" and endpoint == "/v1/embeddings"):
        return ApiError(400, f"Invalid '{name}': it must not be empty.", param=name)
    return None


def _check_messages(messages: object) -> ApiError | None:
    if not isinstance(messages, list):
        message = "Invalid type for 'messages': expected an array of objects."
        return invalid(message, "messages", "invalid_type")
    if not messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        return invalid(message, "messages", "empty_array")
    for index, item in enumerate(messages):
        if not isinstance(item, dict) or not isinstance(item.get("role"), str):
            return missing(f"messages[{index}].role")
    return None


def _check_numbers(body: _Body) -> ApiError | None:
    for name, minimum, maximum, is_integer in _NUMBERS:
        value = body.get(name)
        if value is None:
            continue
        kind, article, types = (
            ("integer", "an", (int,)) if is_integer else ("decimal", "a", (int, float))
        )
        if isinstance(value, bool) or not isinstance(value, types):
            message = f"Invalid type for '{name}': expected {article} {kind}."
            return invalid(message, name, "invalid_type")
        if value > maximum:
            message = (
                f"Invalid '{name}': {kind} above maximum value. "
                f"Expected a value <= {maximum}, but got {value} instead."
            )
            return invalid(message, name, f"{kind}_above_max_value")
        if value < minimum:
            message = (
                f"Invalid '{name}': {kind} below minimum value. "
                f"Expected a value >= {minimum}, but got {value} instead."
            )
            return invalid(message, name, f"{kind}_below_min_value")
    return None


def _check_stream(body: _Body) -> ApiError | None:
    if body.get("stream"):
        message = "Streaming is not supported in the Batch API."
        return invalid(message, "stream", "unsupported_value")
    return None


def _fail_share(custom_id: str, config: SimulatorConfig) -> ApiError | None:
    if ids.fraction_of(config.seed, custom_id) >= config.request_failure_share:
        return None
    status = config.request_failure_status
    message = "The server had an error while processing your request. Sorry about that!"
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = "rate_limit_exceeded" if status == 429 else kind
    return ApiError(status, message, type=kind, code=code)
