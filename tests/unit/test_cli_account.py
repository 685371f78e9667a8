"""Every request of the input is found, or missed, in the files."""

import json
from pathlib import Path
from typing import Any

from batchflow.cli.results_audit import audit_results, request_ids
from batchflow.requests.results import RequestError


def _file(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def _answer(custom_id: str) -> dict[str, Any]:
    return {"custom_id": custom_id, "response": {"status_code": 200, "body": {}}, "error": None}


def _refusal(custom_id: str, code: str = "bad", message: str = "No.") -> dict[str, Any]:
    body = {"error": {"code": code, "message": message}}
    return {"custom_id": custom_id, "response": {"status_code": 400, "body": body}, "error": None}


def test_answered_failed_and_missing(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _answer("a"), _answer("b"))
    errors = _file(tmp_path / "e", _refusal("c"))
    account = audit_results(["a", "b", "c", "d"], output, errors)
    assert (account.requests, account.answered, account.failed) == (4, 2, 1)
    assert (account.unaccounted, account.duplicates, account.unexpected) == (1, 0, 0)


def test_duplicates_and_lines_of_no_request(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _answer("a"), _answer("a"), _answer("z"))
    errors = _file(tmp_path / "e", _refusal("a"))
    account = audit_results(["a"], output, errors)
    assert (account.answered, account.failed) == (1, 0)
    assert (account.duplicates, account.unexpected) == (2, 1)


def test_either_file_may_be_missing(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _answer("a"))
    assert audit_results(["a"], output, None).answered == 1
    assert audit_results(["a"], None, None).unaccounted == 1


def test_errors_are_counted_by_status_and_code_most_frequent_first(tmp_path: Path) -> None:
    expired = {"custom_id": "c", "response": None, "error": {"code": "batch_expired"}}
    errors = _file(tmp_path / "e", expired, _refusal("a", "x", "First."), _refusal("b", "x"))
    account = audit_results(["a", "b", "c"], None, errors)
    assert account.errors == (
        RequestError(400, "x", "First.", 2),
        RequestError(None, "batch_expired", "", 1),
    )


def test_an_error_in_the_output_file_is_no_answer(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _refusal("a"))
    account = audit_results(["a"], output, None)
    assert (account.answered, account.failed) == (0, 1)


def test_odd_results_are_survived(tmp_path: Path) -> None:
    errors = tmp_path / "e"
    errors.write_text('[]\nnonsense\n{"custom_id": "a", "error": "text", "response": 7}\n\n')
    account = audit_results(["a"], None, errors)
    assert (account.failed, account.unexpected) == (1, 1)


def test_the_ids_of_the_input(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"custom_id": "a"}\n\n{"custom_id": "b"}\n{}')
    assert request_ids(path) == ["a", "b", "line 3"]
