"""The audit of result files against the requests of the input."""

import json
from pathlib import Path
from typing import Any

from batchflow.cli.run_summary import audit_results, request_ids
from batchflow.requests.results import RequestError


def _file(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def _success(custom_id: str) -> dict[str, Any]:
    return {"custom_id": custom_id, "response": {"status_code": 200, "body": {}}, "error": None}


def _error(custom_id: str, code: str = "bad", message: str = "No.") -> dict[str, Any]:
    body = {"error": {"code": code, "message": message}}
    return {"custom_id": custom_id, "response": {"status_code": 400, "body": body}, "error": None}


def test_requests_are_answered_failed_or_unaccounted_for(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _success("a"), _success("b"))
    errors = _file(tmp_path / "e", _error("c"))
    audit = audit_results(["a", "b", "c", "d"], output, errors)
    assert (audit.requests, audit.answered, audit.failed) == (4, 2, 1)
    assert (audit.unaccounted, audit.duplicates, audit.unexpected) == (1, 0, 0)


def test_duplicate_and_unexpected_results(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _success("a"), _success("a"), _success("z"))
    errors = _file(tmp_path / "e", _error("a"))
    audit = audit_results(["a"], output, errors)
    assert (audit.answered, audit.failed) == (1, 0)
    assert (audit.duplicates, audit.unexpected) == (2, 1)


def test_either_file_may_be_missing(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _success("a"))
    assert audit_results(["a"], output, None).answered == 1
    assert audit_results(["a"], None, None).unaccounted == 1


def test_errors_are_counted_by_status_and_code_most_frequent_first(tmp_path: Path) -> None:
    expired = {"custom_id": "c", "response": None, "error": {"code": "batch_expired"}}
    errors = _file(tmp_path / "e", expired, _error("a", "x", "First."), _error("b", "x"))
    audit = audit_results(["a", "b", "c"], None, errors)
    assert audit.errors == (
        RequestError(400, "x", "First.", 2),
        RequestError(None, "batch_expired", "", 1),
    )


def test_an_error_in_the_output_file_is_no_success(tmp_path: Path) -> None:
    output = _file(tmp_path / "o", _error("a"))
    audit = audit_results(["a"], output, None)
    assert (audit.answered, audit.failed) == (0, 1)


def test_malformed_results_are_counted(tmp_path: Path) -> None:
    errors = tmp_path / "e"
    errors.write_text('[]\nnonsense\n{"custom_id": "a", "error": "text", "response": 7}\n\n')
    audit = audit_results(["a"], None, errors)
    assert (audit.failed, audit.unexpected) == (1, 1)


def test_request_ids_of_the_input(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"custom_id": "a"}\n\n{"custom_id": "b"}\n{}')
    assert request_ids(path) == ["a", "b", "line 3"]
