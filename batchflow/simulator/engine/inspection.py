"""The validation of a batch's input file, which OpenAI does while a batch is `validating`.

The codes are OpenAI's: `invalid_json_line`, `missing_required_parameter`, `duplicate_custom_id`,
`invalid_url`, `invalid_method`, `mismatched_model`, `empty_file`, `too_many_tasks`.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine.refusals import refusal
from batchflow.simulator.engine.responses import embedding_inputs, prompt_text, tokens_in

#: The maximum number of errors in a Batch object.
MAX_ERRORS = 200
#: The maximum number of inputs in all requests of an embeddings batch.
MAX_EMBEDDING_INPUTS = 50_000


@dataclass(frozen=True, slots=True)
class BatchError:
    """An error of a batch; `line` counts from 1 and is `None` if the error concerns no line."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def to_json(self) -> dict[str, Any]:
        """OpenAI's BatchError object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of reading an input file."""

    errors: tuple[BatchError, ...]
    model: str | None
    total: int
    #: The indexes of the requests that will fail, ascending.
    failing: "array[int]"
    #: The approximate number of tokens in all requests.
    tokens: int

    def failed_among(self, done: int) -> int:
        """Return the number of failed requests among the first `done`."""
        return bisect_left(self.failing, done)


@dataclass(slots=True)
class _Findings:
    endpoint: str
    config: SimulatorConfig
    errors: list[BatchError] = field(default_factory=list)
    custom_ids: set[str] = field(default_factory=set)
    model: str | None = None
    total: int = 0
    failing: "array[int]" = field(default_factory=lambda: array("I"))
    tokens: int = 0
    embedding_inputs: int = 0

    def add_error(self, code: str, message: str, param: str | None, line: int | None) -> None:
        self.errors.append(BatchError(code, message, param, line))


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without line ends; skip blank lines at the end of the file."""
    empty = 0
    with path.open("rb") as file:
        for raw in file:
            line = raw.rstrip(b"\r\n")
            if not line.strip():
                empty += 1
                continue
            yield from (b"" for _ in range(empty))
            empty = 0
            yield line


def inspect(path: Path, endpoint: str, config: SimulatorConfig) -> Inspection:
    """Read and validate an input file. Call it in a thread: a large file takes about a second.

    Raises:
        OSError: The file cannot be read.
    """
    found = _Findings(endpoint, config)
    for number, line in enumerate(lines_of(path), start=1):
        found.total += 1
        _inspect_line(found, number, line)
        if len(found.errors) >= MAX_ERRORS:
            break
    _inspect_totals(found)
    return Inspection(
        tuple(found.errors), found.model, found.total, found.failing, tokens=found.tokens
    )


def _inspect_totals(found: _Findings) -> None:
    if not found.total:
        message = (
            "The input file is empty. Please ensure that the batch contains at least one request."
        )
        found.add_error("empty_file", message, None, None)
    if found.total > found.config.max_requests:
        message = (
            f"The number of requests in the batch exceeds the limit of {found.config.max_requests}."
        )
        found.add_error("too_many_tasks", message, None, None)
    if found.embedding_inputs > MAX_EMBEDDING_INPUTS:
        message = (
            "The number of embedding inputs in the batch exceeds the limit of "
            f"{MAX_EMBEDDING_INPUTS}."
        )
        found.add_error("too_many_tasks", message, "input", None)


def _inspect_line(found: _Findings, number: int, line: bytes) -> None:
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError:
        message = "This line is not parseable as valid JSON."
        found.add_error("invalid_json_line", message, None, number)
        return
    if not isinstance(request, dict):
        message = "This line is not a JSON object."
        found.add_error("invalid_json_line", message, None, number)
    elif _has_required_fields(found, number, request):
        _inspect_request(found, number, request)


def _has_required_fields(found: _Findings, number: int, request: dict[str, Any]) -> bool:
    complete = True
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        value = request.get(name)
        if value is None or value == "":
            message = f"Missing required parameter: '{name}'."
            found.add_error("missing_required_parameter", message, name, number)
            complete = False
        elif not isinstance(value, kind):
            expected = "a string" if kind is str else "an object"
            message = f"Invalid type for '{name}': expected {expected}."
            found.add_error("invalid_type", message, name, number)
            complete = False
    return complete


def _inspect_request(found: _Findings, number: int, request: dict[str, Any]) -> None:
    custom_id, body = request["custom_id"], request["body"]
    if custom_id in found.custom_ids:
        message = (
            f"The custom_id '{custom_id[:100]}' for this request is a duplicate of another "
            "request. The custom_id parameter must be unique for each request in a batch."
        )
        found.add_error("duplicate_custom_id", message, "custom_id", number)
    found.custom_ids.add(custom_id)
    if request["method"] != "POST":
        message = "The method of this request is not supported. It must be 'POST'."
        found.add_error("invalid_method", message, "method", number)
    if request["url"] != found.endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        found.add_error("invalid_url", message, "url", number)
    _inspect_model(found, number, body.get("model"))
    found.tokens += tokens_in(prompt_text(body))
    if found.endpoint == "/v1/embeddings":
        found.embedding_inputs += len(embedding_inputs(body))
    if refusal(found.endpoint, custom_id, body, found.config) is not None:
        found.failing.append(found.total - 1)


def _inspect_model(found: _Findings, number: int, model: object) -> None:
    if not isinstance(model, str):
        return
    if found.model is None:
        found.model = model
    elif model != found.model:
        message = (
            f"The provided model '{model[:100]}' does not match the model '{found.model[:100]}' "
            "of the batch. All requests of a batch must use the same model."
        )
        found.add_error("mismatched_model", message, "body.model", number)
