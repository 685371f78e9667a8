"""Write the output file and the error file of a batch."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine import ids
from batchflow.simulator.engine.inspection import lines_of
from batchflow.simulator.engine.refusals import refusal
from batchflow.simulator.engine.responses import respond

#: Results are shuffled within windows of this size, to limit memory.
_SHUFFLE_WINDOW = 64


@dataclass(frozen=True, slots=True)
class ResultsToWrite:
    """The arguments of `write_results`: only the first `done` requests have run."""

    batch_id: str
    endpoint: str
    config: SimulatorConfig
    source: Path
    done: int
    #: The error code and message of the requests that have not run.
    unexecuted: tuple[str, str]
    output: Path
    errors: Path
    now: int


@dataclass(slots=True)
class ResultFiles:
    """The result files of a batch, and the counts of requests and tokens in them."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None


def write_results(work: ResultsToWrite) -> ResultFiles:
    """Write both files; either can be empty. Call it in a thread: large files take seconds.

    Raises:
        OSError: The input file cannot be read, or the disk is full.
    """
    totals = ResultFiles()
    with work.output.open("wb") as output, work.errors.open("wb") as errors:
        for number, line in _ordered_lines(work):
            _write_result(work, number, line, totals, output, errors)
    return totals


def _ordered_lines(work: ResultsToWrite) -> Iterator[tuple[int, bytes]]:
    numbered = enumerate(lines_of(work.source))
    if not work.config.shuffle_output:
        yield from numbered
        return
    rng = random.Random(work.config.seed)  # noqa: S311 - repeatable, not secret
    window: list[tuple[int, bytes]] = []
    for item in numbered:
        window.append(item)
        if len(window) == _SHUFFLE_WINDOW:
            rng.shuffle(window)
            yield from window
            window.clear()
    rng.shuffle(window)
    yield from window


def _write_result(
    work: ResultsToWrite,
    number: int,
    line: bytes,
    totals: ResultFiles,
    output: BinaryIO,
    errors: BinaryIO,
) -> None:
    request = orjson.loads(line)
    custom_id, body = request["custom_id"], request["body"]
    key = ids.derived(work.batch_id, number)
    result: dict[str, Any] = {"id": f"batch_req_{key}", "custom_id": custom_id}
    if number >= work.done:
        code, message = work.unexecuted
        result |= {"response": None, "error": {"code": code, "message": message}}
        totals.failed += 1
        _write_line(errors, result)
        return
    refused = refusal(work.endpoint, custom_id, body, work.config)
    if refused is not None:
        result |= {"response": _response(refused.status, key, refused.body()), "error": None}
        totals.failed += 1
        _write_line(errors, result)
        return
    response = respond(work.endpoint, body, key=key, now=work.now)
    result |= {"response": _response(200, key, response.body), "error": None}
    totals.completed += 1
    totals.input_tokens += response.input_tokens
    totals.output_tokens += response.output_tokens
    _write_line(output, result)


def _response(status: int, key: str, body: object) -> dict[str, Any]:
    return {"status_code": status, "request_id": ids.derived(key), "body": body}


def _write_line(file: BinaryIO, result: dict[str, Any]) -> None:
    file.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
