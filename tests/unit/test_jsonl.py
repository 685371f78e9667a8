import gzip
import json
import pickle
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchflow.errors import InvalidInput
from batchflow.requests import jsonl
from batchflow.requests.jsonl import (
    MAX_BYTES,
    MAX_EMBEDDING_INPUTS,
    MAX_EXCERPT_CHARS,
    MAX_LINE_BYTES,
    MAX_LINES,
    MAX_MESSAGE_BYTES,
    MAX_REPORTED,
    InvalidJsonl,
    JsonlSummary,
    JsonlValidator,
    ValidationMode,
)

STRICT, JSON, OFF = ValidationMode.STRICT, ValidationMode.JSON, ValidationMode.OFF
URL = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
EXAMPLE = Path(__file__).parents[2] / "examples" / "requests.jsonl"


def request(custom_id: Any = "a", **changes: Any) -> dict[str, Any]:
    """A valid request with changes; a change to ... removes the field."""
    whole = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m"}}
    return {name: value for name, value in (whole | changes).items() if value is not ...}


def line(custom_id: Any = "a", **changes: Any) -> bytes:
    return json.dumps(request(custom_id, **changes)).encode() + b"\n"


def embeddings(custom_id: str, value: Any) -> bytes:
    return line(custom_id, url=EMBEDDINGS, body={"model": "m", "input": value})


def check(*chunks: bytes, mode: ValidationMode = STRICT) -> JsonlSummary | InvalidJsonl:
    """The result of a validation; an error is returned."""
    validator = JsonlValidator(mode)
    try:
        for chunk in chunks:
            validator.feed(chunk)
        return validator.finish()
    except InvalidJsonl as error:
        return error


def problems(*chunks: bytes, mode: ValidationMode = STRICT) -> list[str]:
    result = check(*chunks, mode=mode)
    return [str(problem) for problem in result.problems] if isinstance(result, InvalidJsonl) else []


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def comparable(result: JsonlSummary | InvalidJsonl) -> object:
    if isinstance(result, JsonlSummary):
        return result
    return result.problems, result.count, str(result)


VALID = {
    "one request": line(),
    "no last newline": line().strip(),
    "CRLF": line("a").strip() + b"\r\n" + line("b").strip() + b"\r\n",
    "byte order mark": b"\xef\xbb\xbf" + line(),
    "blank lines at the end": line() + b"\n \t\r\n\n  ",
    "spaces around": b"  " + line().strip() + b" \t\n",
    "text beyond ASCII": json.dumps(request("é日🙂"), ensure_ascii=False).encode(),
    "a surrogate pair": line("\U0001f642"),
    "an escaped NUL": line("a\0b"),
    "unknown fields": line(extra=1, body={"model": "m", "new": [None, 1e300, 2**70]}),
    "embeddings at the limit": embeddings("a", ["x"] * MAX_EMBEDDING_INPUTS),
    "tokens are one input": embeddings("a", [1] * (MAX_EMBEDDING_INPUTS + 1)),
}


@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
@pytest.mark.parametrize("mode", ValidationMode)
def test_valid_files_pass(data: bytes, mode: ValidationMode) -> None:
    assert problems(data, mode=mode) == []


def test_the_summary_describes_the_file() -> None:
    data = line("a") + line("b") + b"\n"

    assert check(data) == JsonlSummary(2, len(data), URL, "m")
    assert check(data, mode=JSON) == JsonlSummary(2, len(data), None, None)
    assert check(data, mode=OFF) == JsonlSummary(None, len(data), None, None)


#: Lines that are not JSON, and where; orjson decides what it calls the fault.
BAD_SYNTAX: dict[str, tuple[bytes, str]] = {
    "cut off": (b'{"custom_id": "b', "(column 17)"),
    "words": (b"hello there", "(column 1, at 'hello there')"),
    "NaN": (b'{"custom_id": NaN}', "(column 15, at 'NaN}')"),
    "Infinity": (b'{"x": Infinity}', "(column 7, at 'Infinity}')"),
    "-Infinity": (b'{"x": -Infinity}', "(column 8, at 'Infinity}')"),
    "single quotes": (b"{'x': 1}", "(column 2, at \"'x': 1}\")"),
    "two objects": (b'{"x": "\xc3\xa9"}{}', "(column 11, at '{}')"),
    "a NUL byte": (b'{"x": "a\0b"}', "(column 9, at '\\x00b\"}')"),
    "an escape sequence": (b"\x1b[31m{}", "(column 1, at '\\x1b[31m{}')"),
    "old Macintosh line ends": (b"{}\r{}", "(column 4, at '{}')"),
    "a second byte order mark": (b"\xef\xbb\xbf" * 2 + b"{}", "(column 1, at '\\ufeff{}')"),
    "nested deeply": (b'{"x": ' + b"[" * 100_000, ""),
    "a long rest": (b"{" + b"x" * 50, f"(column 2, at '{'x' * 20}')"),
}

#: Files that are not valid in the modes STRICT and JSON.
BAD_JSON: dict[str, tuple[bytes, list[str]]] = {
    "empty file": (b"", ["the file is empty"]),
    "only blank lines": (b"\n \r\n", ["the file has no requests, only blank lines"]),
    "only a byte order mark": (b"\xef\xbb\xbf", ["the file has no requests, only blank lines"]),
    "not an object": (
        b'1\n"x"\nnull\n[1]\ntrue\n',
        [
            "line 1: it is a number, not an object",
            "line 2: it is a string, not an object",
            "line 3: it is null, not an object",
            "line 4: it is an array, not an object",
            "line 5: it is a boolean, not an object",
        ],
    ),
    "not UTF-8": (
        line("a") + b'{"custom_id": "caf\xe9"}\n',
        ["line 2: not UTF-8: byte 0xe9 at byte 19"],
    ),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', ["line 1: not UTF-8: byte 0xed at byte 2"]),
    "a lone surrogate": (
        b'{"custom_id": "\\ud83d"}',
        ["line 1: not valid JSON: half of a surrogate pair in a string (column 16)"],
    ),
    "a blank line": (line("a") + b"\r\n" + line("b"), ["line 2: empty line"]),
    "many blank lines": (
        b"\n\n" + line("a") + b"\n\n\n" + line("b"),
        ["line 1: empty lines, up to line 2", "line 4: empty lines, up to line 6"],
    ),
    "custom_id is missing": (
        line(...) + line(None),
        ["line 1: custom_id is missing", "line 2: custom_id is missing"],
    ),
    "an empty custom_id": (line(""), ["line 1: custom_id is empty"]),
    "a custom_id of another type": (
        line(7) + line([]) + line({}),
        [
            "line 1: custom_id is a number, not a string",
            "line 2: custom_id is an array, not a string",
            "line 3: custom_id is an object, not a string",
        ],
    ),
    "a repeated custom_id": (
        line("a") + line("b") + line("a") + line("a"),
        [
            "line 3: custom_id 'a' was already used on line 1",
            "line 4: custom_id 'a' was already used on line 1",
        ],
    ),
    "a pretty-printed file": (
        json.dumps(request(), indent=2).encode(),
        ["the file is pretty-printed JSON; write each request on one line"],
    ),
    "gzip": (
        gzip.compress(line(), mtime=0),
        ["the file is compressed with gzip; uncompress it first"],
    ),
}
ARRAYS = {
    "in one line": json.dumps([request("a"), request("b")]).encode(),
    "one object per line": b"[" + line("a").strip() + b",\n" + line("b").strip() + b"]\n",
    "indented": json.dumps([request("a")], indent=2).encode(),
}
UTF_16 = {
    "with a mark": line().decode().encode("utf-16"),
    "big-endian with a mark": b"\xfe\xff" + line().decode().encode("utf-16-be"),
    "little-endian": line().decode().encode("utf-16-le"),
    "big-endian": line().decode().encode("utf-16-be"),
}
ARRAY = "the file is one JSON array; write one object per line, without brackets around them"
BAD_JSON |= {f"an array, {name}": (data, [ARRAY]) for name, data in ARRAYS.items()}
BAD_JSON |= {
    f"UTF-16, {name}": (data, ["the file looks like UTF-16; save the file as UTF-8"])
    for name, data in UTF_16.items()
}

#: Files that are not valid in the mode STRICT only.
BAD_STRICT: dict[str, tuple[bytes, list[str]]] = {
    "method": (
        line("a", method=...) + line("b", method="GET") + line("c", method=1),
        [f"line {number}: method must be 'POST'" for number in (1, 2, 3)],
    ),
    "url is missing": (
        line("a", url=...) + line("b", url="") + line("c", url=5),
        ["line 1: url is missing", "line 2: url is empty", "line 3: url is a number, not a string"],
    ),
    "a url that is no path": (
        line(url="https://api.openai.com/v1/x"),
        ["line 1: url 'https://api.openai.com/v1/x' is not a path such as '/v1/chat/completions'"],
    ),
    "mixed urls": (
        line("a") + line("b", url=EMBEDDINGS),
        [
            "line 2: url '/v1/embeddings' differs from '/v1/chat/completions' on line 1; "
            "a batch has one url"
        ],
    ),
    "body": (
        line("a", body=...) + line("b", body="x"),
        ["line 1: body is missing", "line 2: body is a string, not an object"],
    ),
    "a model that is none": (
        line("a", body={}) + line("b", body={"model": ""}) + line("c", body={"model": 4}),
        ["line 2: model is empty", "line 3: model is a number, not a string"],
    ),
    "a model of any length": (
        line("a", body={"model": "m" * 257}),
        ["line 1: model is longer than 256 characters"],
    ),
    "mixed models": (
        line("a", body={}) + line("b") + line("c", body={"model": "n"}),
        ["line 3: model 'n' differs from 'm' on line 2; a batch has one model"],
    ),
    "several faults in a line": (
        b"{}",
        [
            "line 1: custom_id is missing",
            "line 1: method must be 'POST'",
            "line 1: url is missing",
            "line 1: body is missing",
        ],
    ),
    "too many embedding inputs": (
        embeddings("a", ["x"] * (MAX_EMBEDDING_INPUTS - 1))
        + embeddings("b", "text")
        + embeddings("c", [[1, 2], [3]])
        + embeddings("d", [1, 2, 3])
        + line("e", url=EMBEDDINGS),
        ["the requests have 50,003 embedding inputs in total; OpenAI's limit is 50,000"],
    ),
}


@pytest.mark.parametrize(("text", "where"), BAD_SYNTAX.values(), ids=BAD_SYNTAX)
@pytest.mark.parametrize("mode", [STRICT, JSON])
def test_a_line_that_is_not_json_is_quoted(text: bytes, where: str, mode: ValidationMode) -> None:
    (found,) = problems(text + b"\n" + line("a") + line("b"), mode=mode)

    assert found.startswith("line 1: not valid JSON: ")
    assert found.endswith(where)


@pytest.mark.parametrize(("data", "reasons"), BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("mode", [STRICT, JSON])
def test_files_that_are_not_jsonl_are_refused(
    data: bytes, reasons: list[str], mode: ValidationMode
) -> None:
    found = problems(data, mode=mode)

    assert [reason for reason in found if reason in reasons] == reasons
    if mode is JSON:
        assert found == reasons


@pytest.mark.parametrize(("data", "reasons"), BAD_STRICT.values(), ids=BAD_STRICT)
def test_strict_validation_applies_the_rules_of_openai(data: bytes, reasons: list[str]) -> None:
    assert problems(data) == reasons


@pytest.mark.parametrize("data", [d for d, _ in (BAD_JSON | BAD_STRICT).values() if d])
def test_without_validation_everything_passes(data: bytes) -> None:
    assert problems(data, mode=OFF) == []


@pytest.mark.parametrize("mode", ValidationMode)
@pytest.mark.parametrize("chunks", [[], [b""]])
def test_an_empty_file_is_always_refused(mode: ValidationMode, chunks: list[bytes]) -> None:
    assert problems(*chunks, mode=mode) == ["the file is empty"]


def test_a_file_of_50_000_requests_is_the_largest() -> None:
    lines = [line(f"{number}") for number in range(MAX_LINES + 2)]

    assert problems(*lines[:MAX_LINES], b"\n\n") == []
    assert problems(*lines, b"garbage") == [
        "the file has 50,003 requests; OpenAI's limit is 50,000, and requests beyond it were not "
        "checked"
    ]
    assert problems(*lines, mode=JSON) == []


def test_a_file_of_200_mb_is_the_largest() -> None:
    validator = JsonlValidator(STRICT)
    validator.feed(line())
    blank = b" " * (1024 * 1024 - 1) + b"\n"
    for _ in range(199):
        validator.feed(blank)
    validator.feed(blank[len(line()) :])
    assert validator.finish().size_bytes == MAX_BYTES

    with pytest.raises(InvalidJsonl, match="limit of 200 MB"):
        validator.feed(b"\n")


TOO_LONG = (
    "it is longer than 16 MiB; split the request into several, or pass images and files by URL or "
    "file id"
)


def padded(size_bytes: int, custom_id: str = "long") -> bytes:
    """A request of this size, without an end of line."""
    empty = line(custom_id, body={"model": "m", "input": ""}).strip()
    return empty.replace(b'"input": "', b'"input": "' + b"x" * (size_bytes - len(empty)))


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_of_16_mib_is_the_longest(end: bytes) -> None:
    assert problems(padded(MAX_LINE_BYTES) + end) == []
    assert problems(padded(MAX_LINE_BYTES + 1) + end) == [f"line 1: {TOO_LONG}"]


@pytest.mark.parametrize("mode", [STRICT, JSON])
def test_lines_around_one_that_is_too_long_are_validated(mode: ValidationMode) -> None:
    long = padded(MAX_LINE_BYTES + 1) + b"\n"

    assert problems(line("a"), b"\n", long, line("b"), line("a"), mode=mode) == [
        "line 2: empty line",
        f"line 3: {TOO_LONG}",
        "line 5: custom_id 'a' was already used on line 1",
    ]


def test_a_line_that_is_too_long_is_found_before_it_ends() -> None:
    validator = JsonlValidator(STRICT)
    validator.feed(padded(MAX_LINE_BYTES))
    assert not validator.is_invalid
    validator.feed(b"x")
    assert validator.is_invalid


def test_a_long_array_is_named_as_such() -> None:
    array = b"[" + b",".join([padded(MAX_LINE_BYTES // 2)] * 3) + b"]"

    assert problems(array) == [ARRAY]


def test_a_line_of_40_mb_of_nested_json_needs_no_more_memory_than_the_limit() -> None:
    piece = b'[[{"a":[]}],' * 20_000
    tracemalloc.start()
    validator = JsonlValidator(STRICT)
    validator.feed(b'{"custom_id":"a","body":[')
    for _ in range(40_000_000 // len(piece)):
        validator.feed(piece)
    validator.feed(b"\n" + line("b"))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 4 * MAX_LINE_BYTES
    with pytest.raises(InvalidJsonl, match="line 1: it is longer than 16 MiB"):
        validator.finish()


def test_the_message_names_the_first_hundred_problems() -> None:
    error = check(b"x\n" * 340)

    assert isinstance(error, InvalidJsonl)
    assert isinstance(error, InvalidInput)
    assert error.count == 340
    assert [problem.line for problem in error.problems] == list(range(1, MAX_REPORTED + 1))
    first, *named, last = str(error).split("\n")
    assert first == "The input file has 340 problems; nothing was uploaded."
    assert len(named) == MAX_REPORTED
    assert last == "... and 240 more problems"


def test_the_message_of_one_problem_is_in_the_singular() -> None:
    assert str(check(b"[1]")).split("\n") == [
        "The input file has 1 problem; nothing was uploaded.",
        "line 1: it is an array, not an object",
    ]


def test_what_is_quoted_is_short_and_escaped() -> None:
    long, rude = "x" * 1000, "\x1b[31m\r\n\u202e"
    found = problems(line(long), line(long), line(rude), line(rude))

    assert found == [
        f"line 2: custom_id '{'x' * (MAX_EXCERPT_CHARS - 5)}...' was already used on line 1",
        "line 4: custom_id '\\x1b[31m\\r\\n\\u202e' was already used on line 3",
    ]


def test_the_message_is_bounded() -> None:
    smileys = [line(str(n), url="/" + "\U0001f642" * 100 + str(n % 7)) for n in range(300)]
    error = check(*smileys)

    assert isinstance(error, InvalidJsonl)
    assert len(str(error).encode()) <= MAX_MESSAGE_BYTES
    named = str(error).split("\n")[1:-1]
    assert str(error).endswith(f"... and {error.count - len(named)} more problems")


def test_the_error_survives_a_pickle() -> None:
    error = check(b"x\n" * 200)

    assert isinstance(error, InvalidJsonl)
    assert comparable(pickle.loads(pickle.dumps(error))) == comparable(error)


def test_the_example_file_is_valid() -> None:
    result = check(EXAMPLE.read_bytes())

    assert isinstance(result, JsonlSummary)
    assert (result.url, result.model) == (URL, "gpt-4o-mini")


BYTES = [b"\n", b"\r\n", b" ", b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"[", b"{", b"{}", b"null\n"]
LINES = [line("a"), line("b"), line("c", url=EMBEDDINGS), line(""), line("é"), b'{"custom_id": "']
SCRAPS = st.sampled_from([*BYTES, *LINES])
FILES = st.lists(SCRAPS | st.binary(max_size=8), max_size=12).map(b"".join)
CUSTOM_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CUSTOM_IDS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(FILES, st.lists(st.integers(min_value=0)), st.sampled_from(ValidationMode))
@example(b"\xef\xbb\xbf" + line(), [1, 2, 3, 4], STRICT)
@example(line("a") + b"\r\n" + line("b"), list(range(200)), STRICT)
def test_where_the_file_is_cut_does_not_matter(
    data: bytes, places: list[int], mode: ValidationMode
) -> None:
    assert comparable(check(*cut(data, places), mode=mode)) == comparable(check(data, mode=mode))


@settings(deadline=None)
@given(FILES, st.lists(st.integers(min_value=0)), st.integers(0, 100))
@example(b"\xef\xbb\xbf" + line(), list(range(200)), len(line()) + 2)
def test_where_a_file_with_long_lines_is_cut_does_not_matter(
    data: bytes, places: list[int], limit_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "MAX_LINE_BYTES", limit_bytes)
        assert comparable(check(*cut(data, places))) == comparable(check(data))


@settings(deadline=None)
@given(
    st.lists(st.tuples(CUSTOM_IDS, JSON_VALUES), min_size=1, unique_by=lambda pair: pair[0]),
    st.sampled_from(["\n", "\r\n", " \n"]),
    st.booleans(),
    st.lists(st.integers(min_value=0)),
)
def test_a_valid_file_is_accepted(
    pairs: list[tuple[str, Any]], end: str, ascii_only: bool, places: list[int]
) -> None:
    bodies = [request(custom_id, body={"model": "m", "x": value}) for custom_id, value in pairs]
    data = "".join(json.dumps(body, ensure_ascii=ascii_only) + end for body in bodies).encode()

    assert check(*cut(data, places)) == JsonlSummary(len(pairs), len(data), URL, "m")


@settings(deadline=None)
@given(st.lists(st.binary() | SCRAPS), st.sampled_from(ValidationMode))
def test_no_bytes_escape_as_another_error(chunks: list[bytes], mode: ValidationMode) -> None:
    result = check(*chunks, mode=mode)

    if isinstance(result, InvalidJsonl):
        assert len(str(result).encode()) <= MAX_MESSAGE_BYTES
        assert all(text.isprintable() for text in str(result).split("\n"))
