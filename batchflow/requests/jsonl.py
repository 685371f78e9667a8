"""Streaming validation of batch input files.

It is written by hand because the rules span lines (unique ids, one model), which a schema does not
express, and because it runs over up to 200 MB per upload.

The rules and limits are OpenAI's; see the Batch guide
(https://developers.openai.com/api/docs/guides/batch) and, in the API reference, ``Create batch``
(https://developers.openai.com/api/reference/resources/batches/methods/create).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any

import orjson

from batchflow.errors import InvalidInput

#: OpenAI's limit on requests (lines) per file.
MAX_LINES = 50_000
#: OpenAI's limit on the size of a file: 200 MB.
MAX_BYTES = 200 * 1024 * 1024
#: OpenAI's limit on embedding inputs per file, summed over its requests.
MAX_EMBEDDING_INPUTS = 50_000
#: The limit on a line: parsed, a line takes up to fifty times its size in memory.
MAX_LINE_BYTES = 16 << 20
#: The limit on a ``url`` or ``model``, which are kept in the job's record and displayed.
MAX_NAME_CHARS = 256
#: The limit on problems that an error lists; the rest are only counted.
MAX_REPORTED = 100
#: The limit on an error's message, in bytes of UTF-8.
MAX_MESSAGE_BYTES = 16_000
#: The limit on a quotation from the user's data.
MAX_EXCERPT_CHARS = 60

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
#: The start of the first request -> why the file is not JSON Lines at all.
_WRONG_FORMATS = (
    (
        re.compile(rb"\xff\xfe|\xfe\xff|[{\[]\0|\0[{\[]"),
        "the file looks like UTF-16; save the file as UTF-8",
    ),
    (re.compile(rb"\x1f\x8b"), "the file is compressed with gzip; uncompress it first"),
    (
        re.compile(rb"\s*\[\s*({|$)"),
        "the file is one JSON array; write one object per line, without brackets around them",
    ),
    (re.compile(rb"\s*{$"), "the file is pretty-printed JSON; write each request on one line"),
)
_TOO_LONG = (
    f"it is longer than {MAX_LINE_BYTES >> 20} MiB; split the request into several, or pass images "
    "and files by URL or file id"
)
_TYPE_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
}


class ValidationMode(StrEnum):
    """Which rules an input file must satisfy."""

    #: All of OpenAI's rules.
    STRICT = "strict"
    #: For compatible servers: at least one line, each a JSON object with a unique ``custom_id``.
    JSON = "json"
    #: Only that the file is not empty.
    OFF = "off"

    @property
    def max_bytes(self) -> float:
        """The limit on a file's size."""
        return MAX_BYTES if self is ValidationMode.STRICT else math.inf


@dataclass(frozen=True)
class JsonlSummary:
    """The contents of a valid file; None for what the mode does not check."""

    lines: int | None
    size_bytes: int
    url: str | None
    model: str | None


@dataclass(frozen=True)
class JsonlProblem:
    """A violation of a rule. ``line`` counts from 1; None means the file as a whole."""

    line: int | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.line is None else f"line {self.line}: {self.reason}"


class InvalidJsonl(InvalidInput):
    """Raised when an input file is not valid.

    ``problems`` holds the first 100, those of the whole file before those of its lines; ``count``
    is their total number. The message lists as many as fit into 16,000 bytes.
    """

    def __init__(self, problems: tuple[JsonlProblem, ...], count: int) -> None:
        super().__init__(_message(problems, count))
        self.problems = problems
        self.count = count

    def __reduce__(self) -> tuple[type["InvalidJsonl"], tuple[tuple[JsonlProblem, ...], int]]:
        return type(self), (self.problems, self.count)


class JsonlValidator:
    """Validates a file that arrives in chunks of any size, holding one line at a time, and no more
    than ``MAX_LINE_BYTES`` of it.

    ``expected_bytes`` is the file's size, if it is known in advance.
    """

    def __init__(self, mode: ValidationMode, expected_bytes: int = 0) -> None:
        self._mode = mode
        self._strict = mode is ValidationMode.STRICT
        self._tail = bytearray()
        self._skips_line = False
        self._expected_bytes = expected_bytes
        self._size_bytes = 0
        self._line = 0
        self._requests = 0
        self._blank_lines = 0
        self._embedding_inputs = 0
        self._wrong_format: str | None = None
        self._seen: dict[str, int] = {}  # custom_id -> line
        self._first: dict[str, tuple[str, int]] = {}  # field -> its first value and line
        self._problems: list[JsonlProblem] = []
        self._problem_count = 0

    def feed(self, chunk: bytes) -> None:
        """Validate the next bytes; raises InvalidJsonl only if the file is too large."""
        self._size_bytes += len(chunk)
        if self._size_bytes > self._mode.max_bytes:
            raise self._error()
        if self._wrong_format or self._mode is ValidationMode.OFF:
            return
        for line in BytesIO(chunk):
            ends = line.endswith(b"\n")
            if self._skips_line:
                self._skips_line = not ends
            elif len(self._tail) + len(line) > MAX_LINE_BYTES + ends:
                self._tail += line[: MAX_LINE_BYTES - len(self._tail)]
                self._end_line(is_too_long=True)
                self._skips_line = not ends
            elif not ends:
                self._tail += line
            elif self._tail:
                self._tail += line
                self._end_line()
            else:
                self._check_line(line)

    @property
    def is_invalid(self) -> bool:
        """Whether what was validated so far already makes the file invalid."""
        return self._problem_count > 0 or any(self._lasting_problems())

    def finish(self) -> JsonlSummary:
        """Validate the end of the file; raises InvalidJsonl with all its problems."""
        if self._tail:
            self._end_line()
        if self._problem_count or any(self._file_problems()):
            raise self._error()
        return JsonlSummary(
            lines=None if self._mode is ValidationMode.OFF else self._requests,
            size_bytes=self._size_bytes,
            url=self._first_value("url"),
            model=self._first_value("model"),
        )

    def _end_line(self, *, is_too_long: bool = False) -> None:
        line, self._tail = self._tail, bytearray()
        self._check_line(line, is_too_long=is_too_long)

    def _check_line(self, line: bytes | bytearray, *, is_too_long: bool = False) -> None:
        """Validate a line, or only the format of the file by the beginning of a line that is too
        long."""
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(_BOM)
        text = line.rstrip(_BLANKS)
        if not text and not is_too_long:
            self._blank_lines += 1
            return
        if self._wrong_format:
            return
        if self._blank_lines:
            self._report_blank_lines()
        self._requests += 1
        if self._requests == 1:
            self._wrong_format = next(
                (reason for start, reason in _WRONG_FORMATS if start.match(text)), None
            )
        if self._wrong_format or (self._strict and self._requests > MAX_LINES):
            return
        if is_too_long:
            self._report(_TOO_LONG)
            return
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            self._report(_parse_fault(text, error))
            return
        if not isinstance(request, dict):
            self._report(f"it is {_type_name(request)}, not an object")
            return
        self._check_custom_id(request.get("custom_id"))
        if self._strict:
            self._check_request(request)

    def _report_blank_lines(self) -> None:
        first, last = self._line - self._blank_lines, self._line - 1
        reason = "empty line" if first == last else f"empty lines, up to line {last}"
        self._report(reason, line=first)
        self._blank_lines = 0

    def _check_custom_id(self, custom_id: Any) -> None:
        if fault := _string_fault("custom_id", custom_id):
            self._report(fault)
            return
        line = self._seen.setdefault(custom_id, self._line)
        if line != self._line:
            self._report(f"custom_id {_excerpt(custom_id)} was already used on line {line}")

    def _check_request(self, request: dict[str, Any]) -> None:
        url, body = request.get("url"), request.get("body")
        if request.get("method") != "POST":
            self._report("method must be 'POST'")
        if isinstance(url, str) and url and not url.startswith("/"):
            self._report(f"url {_excerpt(url)} is not a path such as '/v1/chat/completions'")
        else:
            self._check_same("url", url)
        if isinstance(body, dict):
            if "model" in body:  # optional at some endpoints
                self._check_same("model", body["model"])
            if isinstance(url, str) and url.endswith("/v1/embeddings"):
                self._embedding_inputs += _embedding_inputs(body.get("input"))
        else:
            self._report(
                "body is missing" if body is None else f"body is {_type_name(body)}, not an object"
            )

    def _check_same(self, name: str, value: Any) -> None:
        """Check that a ``url`` or ``model`` is a string, and the same in all requests."""
        first = self._first.get(name)
        if first and first[0] == value:
            return
        if fault := _string_fault(name, value):
            self._report(fault)
        elif len(value) > MAX_NAME_CHARS:
            self._report(f"{name} is longer than {MAX_NAME_CHARS} characters")
        elif first:
            self._report(
                f"{name} {_excerpt(value)} differs from {_excerpt(first[0])} on line {first[1]}; "
                f"a batch has one {name}"
            )
        else:
            self._first[name] = (value, self._line)

    def _report(self, reason: str, line: int | None = None) -> None:
        self._problem_count += 1
        if self._problem_count <= MAX_REPORTED:
            self._problems.append(JsonlProblem(line or self._line, reason))

    def _first_value(self, name: str) -> str | None:
        return self._first[name][0] if name in self._first else None

    def _file_problems(self) -> Iterator[str]:
        lasting = tuple(self._lasting_problems())
        yield from lasting
        if not self._size_bytes:
            yield "the file is empty"
        elif not (self._requests or lasting or self._mode is ValidationMode.OFF):
            yield "the file has no requests, only blank lines"

    def _lasting_problems(self) -> Iterator[str]:
        """Problems of the whole file that later lines cannot resolve."""
        if self._wrong_format:
            yield self._wrong_format
        elif max(self._size_bytes, self._expected_bytes) > self._mode.max_bytes:
            yield f"the file is larger than OpenAI's limit of 200 MB ({MAX_BYTES:,} bytes)"
        if self._strict and self._requests > MAX_LINES:
            yield (
                f"the file has {self._requests:,} requests; OpenAI's limit is {MAX_LINES:,}, and "
                "requests beyond it were not checked"
            )
        if self._embedding_inputs > MAX_EMBEDDING_INPUTS:
            yield (
                f"the requests have {self._embedding_inputs:,} embedding inputs in total; OpenAI's "
                f"limit is {MAX_EMBEDDING_INPUTS:,}"
            )

    def _error(self) -> InvalidJsonl:
        whole = [JsonlProblem(None, reason) for reason in self._file_problems()]
        problems = (*whole, *self._problems)
        return InvalidJsonl(problems[:MAX_REPORTED], len(whole) + self._problem_count)


def _parse_fault(text: bytes | bytearray, error: orjson.JSONDecodeError) -> str:
    if not error.doc:  # orjson could not decode it
        try:
            text.decode()
        except UnicodeDecodeError as fault:
            return f"not UTF-8: byte 0x{text[fault.start]:02x} at byte {fault.start + 1}"
    if "surrogate" in error.msg:
        return f"not valid JSON: half of a surrogate pair in a string (column {error.pos + 1})"
    rest = error.doc[error.pos : error.pos + 20]
    where = f"column {error.pos + 1}, at {_excerpt(rest)}" if rest else f"column {error.pos + 1}"
    return f"not valid JSON: {error.msg} ({where})"


def _string_fault(name: str, value: Any) -> str | None:
    if isinstance(value, str):
        return None if value else f"{name} is empty"
    return f"{name} is missing" if value is None else f"{name} is {_type_name(value)}, not a string"


def _embedding_inputs(value: Any) -> int:
    """The number of texts in ``input``: a string, a list of tokens, or a list of either."""
    if isinstance(value, list) and not (value and isinstance(value[0], int)):
        return len(value)
    return 0 if value is None else 1


def _type_name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "an object")


def _excerpt(value: str) -> str:
    """The start of ``value``, quoted, with unprintable characters escaped."""
    shown = repr(value[:MAX_EXCERPT_CHARS])
    if len(value) <= MAX_EXCERPT_CHARS and len(shown) <= MAX_EXCERPT_CHARS:
        return shown
    return f"{shown[: MAX_EXCERPT_CHARS - 4]}...{shown[-1]}"


def _message(problems: tuple[JsonlProblem, ...], count: int) -> str:
    noun = "problem" if count == 1 else "problems"
    lines = [f"The input file has {count:,} {noun}; nothing was uploaded."]
    room_bytes = MAX_MESSAGE_BYTES - 200
    for problem in problems:
        room_bytes -= len(str(problem).encode()) + 1
        if room_bytes < 0:
            break
        lines.append(str(problem))
    if more := count - len(lines) + 1:
        lines.append(f"... and {more:,} more {'problem' if more == 1 else 'problems'}")
    return "\n".join(lines)
