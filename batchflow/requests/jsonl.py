"""A streaming check of batch input files, so that a bad one is refused before OpenAI has it.

The rules and limits are OpenAI's: the Batch guide
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

#: The most requests (lines) that OpenAI takes in one file.
MAX_LINES = 50_000
#: The most bytes that OpenAI takes in one file: 200 MB.
MAX_BYTES = 200 * 1024 * 1024
#: The most embedding inputs that OpenAI takes in one file, all its requests together.
MAX_EMBEDDING_INPUTS = 50_000
#: The longest ``url`` or ``model``: they are kept in the job's record and shown.
MAX_NAME_CHARS = 256
#: How many problems an error names; the others are counted.
MAX_REPORTED = 100
#: How long an error's message may get, in bytes of UTF-8.
MAX_MESSAGE_BYTES = 16_000
#: How many characters of the user's data a message quotes at a time.
MAX_EXCERPT_CHARS = 60

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
# How a first request begins -> why the file can't be JSON Lines at all.
_NOT_JSONL = (
    (
        re.compile(rb"\xff\xfe|\xfe\xff|[{\[]\0|\0[{\[]"),
        "the file looks like UTF-16; save the file as UTF-8",
    ),
    (re.compile(rb"\x1f\x8b"), "the file is compressed with gzip; give it uncompressed"),
    (
        re.compile(rb"\s*\[\s*({|$)"),
        "the file is one JSON array; write one object per line, without brackets around them",
    ),
    (re.compile(rb"\s*{$"), "the file is pretty-printed JSON; write each request on one line"),
)
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
}


class Validation(StrEnum):
    """How closely an input file is looked at."""

    #: All of OpenAI's rules.
    STRICT = "strict"
    #: For other providers: UTF-8, JSON objects, each with its own ``custom_id``, at least one.
    JSON = "json"
    #: The bytes pass unlooked at; only an empty file is refused.
    OFF = "off"

    @property
    def max_bytes(self) -> float:
        """How large a file may be."""
        return MAX_BYTES if self is Validation.STRICT else math.inf


@dataclass(frozen=True)
class JsonlSummary:
    """What a valid file holds; what the validation did not look at is None."""

    lines: int | None
    size_bytes: int
    url: str | None
    model: str | None


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file. ``line`` counts from 1; None means the file as a whole."""

    line: int | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.line is None else f"line {self.line}: {self.reason}"


class InvalidJsonl(InvalidInput):
    """Raised when an input file can't become a batch.

    ``problems`` are the first 100, those of the whole file before those of its lines; ``count``
    is how many there are. The message names as many of them as fit into 16,000 bytes.
    """

    def __init__(self, problems: tuple[Problem, ...], count: int) -> None:
        super().__init__(_message(problems, count))
        self.problems = problems
        self.count = count

    def __reduce__(self) -> tuple[type["InvalidJsonl"], tuple[tuple[Problem, ...], int]]:
        return type(self), (self.problems, self.count)


class JsonlValidator:
    """Checks a file that is fed piece by piece, cut anywhere, holding one line at a time.

    ``expected_bytes`` is the file's size, where it is known before its bytes are.
    """

    def __init__(self, mode: Validation, expected_bytes: int = 0) -> None:
        self._mode = mode
        self._strict = mode is Validation.STRICT
        self._tail = bytearray()
        self._expected_bytes = expected_bytes
        self._size_bytes = 0
        self._line = 0
        self._requests = 0
        self._blank_lines = 0
        self._embedding_inputs = 0
        self._hopeless: str | None = None
        self._seen: dict[str, int] = {}  # custom_id -> its line
        self._first: dict[str, tuple[str, int]] = {}  # url, model -> the first one and its line
        self._problems: list[Problem] = []
        self._count = 0

    def feed(self, chunk: bytes) -> None:
        """Take the file's next bytes. Raises ``InvalidJsonl`` only when they are too many."""
        self._size_bytes += len(chunk)
        if self._size_bytes > self._mode.max_bytes:
            raise self._error()
        if self._hopeless or self._mode is Validation.OFF:
            return
        for line in BytesIO(chunk):
            if not line.endswith(b"\n"):
                self._tail += line
            elif self._tail:
                self._tail += line
                self._end_line()
            else:
                self._take(line)

    @property
    def faulty(self) -> bool:
        """Whether it is known by now that the file can't become a batch."""
        return self._count > 0 or any(self._standing_problems())

    def finish(self) -> JsonlSummary:
        """Say what the file holds. Raises ``InvalidJsonl`` with all that is wrong with it."""
        if self._tail:
            self._end_line()
        if self._count or any(self._file_problems()):
            raise self._error()
        return JsonlSummary(
            lines=None if self._mode is Validation.OFF else self._requests,
            size_bytes=self._size_bytes,
            url=self._first_of("url"),
            model=self._first_of("model"),
        )

    def _end_line(self) -> None:
        line, self._tail = self._tail, bytearray()
        self._take(line)

    def _take(self, line: bytes | bytearray) -> None:
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(_BOM)
        text = line.rstrip(_BLANKS)
        if not text:
            self._blank_lines += 1
            return
        if self._hopeless:
            return
        if self._blank_lines:
            self._report_blank_lines()
        self._requests += 1
        if self._requests == 1:
            self._hopeless = next((why for what, why in _NOT_JSONL if what.match(text)), None)
        if self._hopeless or (self._strict and self._requests > MAX_LINES):
            return
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            self._report(_parse_fault(text, error))
            return
        if not isinstance(request, dict):
            self._report(f"it is {_kind(request)}, not an object")
            return
        self._check_custom_id(request.get("custom_id"))
        if self._strict:
            self._check_request(request)

    def _report_blank_lines(self) -> None:
        first, last = self._line - self._blank_lines, self._line - 1
        what = "empty line" if first == last else f"empty lines, up to line {last}"
        self._report(what, line=first)
        self._blank_lines = 0

    def _check_custom_id(self, custom_id: Any) -> None:
        if fault := _text_fault("custom_id", custom_id):
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
            if "model" in body:  # not every endpoint calls for one
                self._check_same("model", body["model"])
            if isinstance(url, str) and url.endswith("/v1/embeddings"):
                self._embedding_inputs += _embedding_inputs(body.get("input"))
        else:
            self._report("no body" if body is None else f"body is {_kind(body)}, not an object")

    def _check_same(self, name: str, value: Any) -> None:
        """A ``url`` or ``model``: text, and the same in all requests."""
        first = self._first.get(name)
        if first and first[0] == value:
            return
        if fault := _text_fault(name, value):
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
        self._count += 1
        if self._count <= MAX_REPORTED:
            self._problems.append(Problem(line or self._line, reason))

    def _first_of(self, name: str) -> str | None:
        return self._first[name][0] if name in self._first else None

    def _file_problems(self) -> Iterator[str]:
        standing = tuple(self._standing_problems())
        yield from standing
        if not self._size_bytes:
            yield "the file is empty"
        elif not (self._requests or standing or self._mode is Validation.OFF):
            yield "the file has no requests, only blank lines"

    def _standing_problems(self) -> Iterator[str]:
        """Those that nothing that may still come will mend."""
        if self._hopeless:
            yield self._hopeless
        elif max(self._size_bytes, self._expected_bytes) > self._mode.max_bytes:
            yield f"the file is larger than 200 MB ({MAX_BYTES:,} bytes), the most OpenAI takes"
        if self._strict and self._requests > MAX_LINES:
            yield (
                f"the file has {self._requests:,} requests and OpenAI takes at most {MAX_LINES:,}; "
                "later ones were not looked at"
            )
        if self._embedding_inputs > MAX_EMBEDDING_INPUTS:
            yield (
                f"the requests have {self._embedding_inputs:,} embedding inputs in all "
                f"and OpenAI takes at most {MAX_EMBEDDING_INPUTS:,}"
            )

    def _error(self) -> InvalidJsonl:
        whole = [Problem(None, reason) for reason in self._file_problems()]
        problems = (*whole, *self._problems)
        return InvalidJsonl(problems[:MAX_REPORTED], len(whole) + self._count)


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


def _text_fault(name: str, value: Any) -> str | None:
    if isinstance(value, str):
        return None if value else f"{name} is empty"
    return f"no {name}" if value is None else f"{name} is {_kind(value)}, not a string"


def _embedding_inputs(value: Any) -> int:
    """How many texts ``input`` has: a string, tokens, or a list of either."""
    if isinstance(value, list) and not (value and isinstance(value[0], int)):
        return len(value)
    return 0 if value is None else 1


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "an object")


def _excerpt(value: str) -> str:
    """The beginning of ``value``, quoted, with everything unprintable escaped."""
    shown = repr(value[:MAX_EXCERPT_CHARS])
    if len(value) <= MAX_EXCERPT_CHARS and len(shown) <= MAX_EXCERPT_CHARS:
        return shown
    return f"{shown[: MAX_EXCERPT_CHARS - 4]}...{shown[-1]}"


def _message(problems: tuple[Problem, ...], count: int) -> str:
    noun = "problem" if count == 1 else "problems"
    lines = [f"The input file has {count:,} {noun}, nothing was uploaded."]
    room_bytes = MAX_MESSAGE_BYTES - 200
    for problem in problems:
        room_bytes -= len(str(problem).encode()) + 1
        if room_bytes < 0:
            break
        lines.append(str(problem))
    if more := count - len(lines) + 1:
        lines.append(f"... and {more:,} more {'problem' if more == 1 else 'problems'}")
    return "\n".join(lines)
