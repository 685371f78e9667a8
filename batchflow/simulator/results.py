"""The writing of a batch's output file and error file."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batchflow.simulator import ids
from batchflow.simulator.answers import answer
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.inspection import lines_of
from batchflow.simulator.refusals import refusal

#: Results change their order within windows of so many, so that memory stays small.
_SHUFFLE_WINDOW = 64


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written: the first `done` requests have run, the rest has not."""

    batch_id: str
    endpoint: str
    config: SimulatorConfig
    source: Path
    done: int
    #: Code and message for the requests that have not run.
    unexecuted: tuple[str, str]
    output: Path
    errors: Path
    now: int


@dataclass(slots=True)
class Tally:
    """What came of it."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def write_results(job: Job) -> Tally:
    """Write both files, either of them maybe empty. Takes seconds for the largest: use a thread.

    Raises:
        OSError: The input file is gone, or the disk is full.
    """
    tally = Tally()
    with job.output.open("wb") as output, job.errors.open("wb") as errors:
        for number, line in _ordered(job):
            _write_result(job, number, line, tally, output, errors)
    return tally


def _ordered(job: Job) -> Iterator[tuple[int, bytes]]:
    numbered = enumerate(lines_of(job.source))
    if not job.config.shuffle_output:
        yield from numbered
        return
    rng = random.Random(job.config.seed)  # noqa: S311 - repeatable, not secret
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
    job: Job, number: int, line: bytes, tally: Tally, output: BinaryIO, errors: BinaryIO
) -> None:
    request = orjson.loads(line)
    custom_id, body = request["custom_id"], request["body"]
    key = ids.derived(job.batch_id, number)
    result: dict[str, Any] = {"id": f"batch_req_{key}", "custom_id": custom_id}
    if number >= job.done:
        code, message = job.unexecuted
        result |= {"response": None, "error": {"code": code, "message": message}}
        tally.failed += 1
        _write_line(errors, result)
        return
    refused = refusal(job.endpoint, custom_id, body, job.config)
    if refused is not None:
        result |= {"response": _response(refused.status, key, refused.body()), "error": None}
        tally.failed += 1
        _write_line(errors, result)
        return
    answered = answer(job.endpoint, body, key=key, now=job.now)
    result |= {"response": _response(200, key, answered.body), "error": None}
    tally.completed += 1
    tally.input_tokens += answered.input_tokens
    tally.output_tokens += answered.output_tokens
    _write_line(output, result)


def _response(status: int, key: str, body: object) -> dict[str, Any]:
    return {"status_code": status, "request_id": ids.derived(key), "body": body}


def _write_line(file: BinaryIO, result: dict[str, Any]) -> None:
    file.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
