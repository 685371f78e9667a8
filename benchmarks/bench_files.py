"""Measure time and memory of validation, upload and download.

Validation is compared with a loop of ``orjson.loads``, the minimum that any validation must do.
Transfers run in a new Celery worker and are measured from the enqueued step to the job's end. They
are compared with OpenAI's SDK in a separate process. Both talk to a stub of OpenAI that discards
uploads.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import orjson

from batchflow.jobs import DownloadSpec, JobRequest, Spec, UploadSpec, random_job_id
from batchflow.queue import STEP_OF, Queue, Sender, make_app, queue_name
from batchflow.requests.jsonl import JsonlValidator, ValidationMode
from batchflow.states import JobKind, JobState
from batchflow.store import keys, records
from benchmarks.support import cores, input_file, usage
from benchmarks.support.live_jobs import credential_of
from benchmarks.support.program import Program
from benchmarks.support.results import OURS, Bar, Chart, Measured, Result
from benchmarks.support.rounds import alternate
from benchmarks.support.stack import API_KEY, Stack

_LOOP = "loop of orjson.loads"
_SDK = "OpenAI's SDK"
_SECONDS = "seconds"
_PEAK = "peak memory, all processes"
_IDLE = "memory before, all processes"
_MB = 1_000_000
_CHUNK_BYTES = 4 << 20
_MAX_MB = 200.0
_TRANSFER_S = 600
#: The recommended pool.
_RECOMMENDED = "threads"

program = Program("files", "Files: validation, upload, download", __doc__)
program.option("--mb", 200, "size of the input file, in millions of bytes")
program.option("--lines", 50_000, "number of lines of the input file")
program.option("--result-mb", 1_000, "size of the downloaded file, in millions of bytes")
program.option("--mbit-s", 1_000, "bandwidth of the second upload measurement")
program.option("--rounds", 4, "rounds of each measurement")
program.option("--pools", [_RECOMMENDED], "Celery pools, with one step at a time", several=True)


@dataclass(frozen=True)
class Transfer:
    """Time and memory of one transfer."""

    seconds: float
    idle_bytes: int = 0
    peak_bytes: int = 0


def measure(options: argparse.Namespace) -> Result:
    """Measure validation in this process, then transfers in new processes."""
    with Stack() as stack:
        source = stack.blobs / "requests.jsonl"
        program.say(f"Writing {options.mb} MB in {options.lines:,} lines")
        input_file.write(source, lines=options.lines, size_bytes=options.mb * _MB)
        measured = _validation(source, options)
        program.say("Starting Redis and the stub")
        stack.redis()
        openai = {"OPENAI_BASE_URL": stack.openai_stub()}
        upload = UploadSpec(credential=credential_of("org-benchmark"), uri=str(source))
        arguments = ["upload", str(source)]
        measured += _transfers(stack, openai, _upload_case(options), upload, arguments, options)
        line = stack.openai_stub(upload_mbit_s=options.mbit_s, name="openai-stub-line")
        by_line = {"OPENAI_BASE_URL": line}
        measured += _transfers(stack, by_line, _line_case(options), upload, arguments, options)
        source.unlink()
        target = _results(stack)
        file_id = f"file-{options.result_mb * _MB}"
        download = DownloadSpec(
            credential=credential_of("org-benchmark"),
            output_file_id=file_id,
            destination=str(target),
        )
        name = f"download of {options.result_mb / 1000:g} GB"
        arguments = ["download", file_id, str(target / "sdk.jsonl")]
        measured += _transfers(stack, openai, name, download, arguments, options)
    chart = Chart(_SECONDS, "Validation, upload and download, in seconds")
    return program.result(measured, _bars(measured, options), chart, _notes())


def _upload_case(options: argparse.Namespace) -> str:
    return f"upload of {options.mb} MB"


def _line_case(options: argparse.Namespace) -> str:
    return f"{_upload_case(options)} at {options.mbit_s / 1000:g} Gbit/s"


def _validation(source: Path, options: argparse.Namespace) -> list[Measured]:
    program.say(f"Validating, {options.rounds} rounds")
    case = f"validation of {options.mb} MB"
    sides: dict[str, Callable[[], float]] = {
        OURS: partial(_timed, lambda: _validate(source, options.lines)),
        _LOOP: partial(_timed, lambda: _loop(source)),
    }
    with cores.on(measured=True):
        _loop(source)  # reads the file into the system's cache
        found = alternate(options.rounds, sides)
    return [Measured(_SECONDS, case, side, "s", tuple(times)) for side, times in found.items()]


def _timed(work: Callable[[], None]) -> float:
    begun_at = time.perf_counter()
    work()
    return time.perf_counter() - begun_at


def _validate(source: Path, lines: int) -> None:
    validator = JsonlValidator(ValidationMode.STRICT)
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            validator.feed(chunk)
    if validator.finish().lines != lines:
        raise RuntimeError("The validator lost lines.")


def _loop(source: Path) -> None:
    with source.open("rb") as file:
        for line in file:
            orjson.loads(line)


def _transfers(
    stack: Stack,
    openai: Mapping[str, str],
    name: str,
    spec: Spec,
    sdk: Sequence[str],
    options: argparse.Namespace,
) -> list[Measured]:
    program.say(f"{name[0].upper()}{name[1:]}, {options.rounds} rounds")
    sides: dict[str, Callable[[], Transfer]] = {
        f"{OURS}, {pool}": partial(_by_worker, stack, openai, spec, pool) for pool in options.pools
    }
    sides[_SDK] = partial(_by_sdk, stack, openai, sdk)
    found = alternate(options.rounds, sides)
    measured = []
    for side, transfers in found.items():
        seconds = tuple(transfer.seconds for transfer in transfers)
        measured.append(Measured(_SECONDS, name, side, "s", seconds))
        for figure, values in (
            (_IDLE, [transfer.idle_bytes for transfer in transfers]),
            (_PEAK, [transfer.peak_bytes for transfer in transfers]),
        ):
            if any(values):
                in_mb = tuple(value / _MB for value in values)
                measured.append(Measured(figure, name, side, "MB", in_mb))
    return measured


def _results(stack: Stack) -> Path:
    """The folder for the downloads of both sides."""
    return stack.blobs / "results"


def _forget_results(stack: Stack) -> None:
    """Delete earlier downloads, so that both sides write a new file.

    Otherwise the SDK would overwrite a file that is in the page cache."""
    shutil.rmtree(_results(stack), ignore_errors=True)
    _results(stack).mkdir()


def _by_worker(stack: Stack, openai: Mapping[str, str], spec: Spec, pool: str) -> Transfer:
    """Run the step in a new worker; measure from the enqueued step to the job's end."""
    _forget_results(stack)
    settings, store = stack.settings(), stack.store()
    kind = JobKind(spec.kind)
    job_request = JobRequest(job_id=random_job_id(), spec=spec)
    events = keys.full(settings.key_prefix, keys.EVENTS)
    redis: Any = store.redis
    store.run(records.create(job_request, due_in_s=_TRANSFER_S))
    queue = queue_name(settings.key_prefix, Queue.FILES)
    options = ("-Q", queue, "--pool", pool, "--concurrency", "1")
    worker = stack.worker(*options, env=openai, measured=True)
    try:
        pid = worker.pid
        idle_bytes = usage.now_bytes(pid)
        seen = redis.xrevrange(events, count=1)[0][0]
        sender = Sender(make_app(settings))
        begun_at = time.perf_counter()
        sender.send(STEP_OF[kind], job_request.job_id)
        _await_end(redis, events, job_request.job_id, seen)
        seconds = time.perf_counter() - begun_at
        job = store.run(records.get(job_request.job_id))
        if job is None or not job.succeeded:
            raise RuntimeError(f"The {kind} did not succeed: {job and job.message}")
        return Transfer(seconds, idle_bytes, usage.peak_bytes(pid))
    finally:
        stack.kill(worker)


def _await_end(redis: Any, events: str, job_id: str, seen: str) -> None:
    deadline = time.monotonic() + _TRANSFER_S
    while time.monotonic() < deadline:
        entries = _entries(redis.xread({events: seen}, block=1_000))
        for _, event in entries:
            if event["job_id"] == job_id and JobState(event["state"]).terminal:
                return
        seen = entries[-1][0] if entries else seen
    raise RuntimeError(f"The transfer did not end within {_TRANSFER_S} s.")


def _entries(answer: Any) -> list[tuple[str, dict[str, str]]]:
    """The entries in an XREAD reply: a dict in RESP3, otherwise pairs."""
    if not answer:
        return []
    if isinstance(answer, dict):
        return [entry for parts in answer.values() for part in parts for entry in part]
    return [entry for _, entries in answer for entry in entries]


def _by_sdk(stack: Stack, openai: Mapping[str, str], arguments: Sequence[str]) -> Transfer:
    _forget_results(stack)
    command = [sys.executable, "-m", "benchmarks.support.sdk_transfers", *arguments]
    env = {**stack.env(openai), "OPENAI_API_KEY": API_KEY}
    with cores.on(measured=True):
        told = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=_TRANSFER_S, check=True
        )
    return Transfer(float(told.stdout))


def _bars(measured: Sequence[Measured], options: argparse.Namespace) -> list[Bar]:
    seconds = {(m.case, m.side): m.median for m in measured if m.figure == _SECONDS}
    case = f"validation of {options.mb} MB"
    bars = [_times(f"{case} against the loop", seconds[case, OURS], seconds[case, _LOOP], 1.5)]
    side = f"{OURS}, {_RECOMMENDED}"
    for case in (_upload_case(options), _line_case(options)):
        title = f"{case} against the SDK's"
        bars.append(_times(title, seconds[case, side], seconds[case, _SDK], 1.3))
    bars += [
        Bar(f"peak memory, {m.case}", max(m.rounds), _MAX_MB, False, "MB")
        for m in measured
        if (m.figure, m.side) == (_PEAK, side)
    ]
    return bars


def _times(title: str, ours_s: float, theirs_s: float, limit: float) -> Bar:
    detail = f"{ours_s:.2f} against {theirs_s:.2f} s"
    return Bar(title, ours_s / theirs_s, limit, False, "times", detail)


def _notes() -> list[str]:
    return [
        cores.note(),
        "The input has chat requests of several sentences with escapes and multi-byte characters. "
        "It was in the page cache.",
        f"The bars are for the recommended Celery pool, {_RECOMMENDED}.",
        "On the loopback the stub limits the upload. The second upload is limited to a bandwidth.",
        "A transfer by Batchflow is a whole step in a new worker: an upload validates every line "
        "before it is sent, and a download verifies the file before it is published. All files are "
        "on a local disk, and each download writes a new file.",
        "Peak memory is the sum of Linux' VmHWM over the worker and its children: shared pages "
        "count once for each process.",
    ]


if __name__ == "__main__":
    sys.exit(program.run(measure))
