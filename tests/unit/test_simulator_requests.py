"""How the emulator answers the requests of a batch file."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from batchflow.simulator.api.batches import CreateBatch
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.engine.inspection import inspect
from batchflow.simulator.engine.refusals import refusal
from batchflow.simulator.engine.responses import ENDPOINTS, respond, text_of
from batchflow.simulator.engine.results import ResultsToWrite, write_results

CHAT = "/v1/chat/completions"
GOOD = {"model": "gpt-test", "messages": [{"role": "user", "content": "hello"}]}
CONFIG = SimulatorConfig()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
#: Bodies that are near to being right.
BODY = st.fixed_dictionaries(
    {"model": st.just("gpt-test") | JSON},
    optional={
        "messages": st.just(GOOD["messages"]) | JSON,
        "input": JSON,
        "prompt": JSON,
        "n": JSON,
        "max_tokens": JSON | st.integers(1, 3),
        "dimensions": st.integers(-1, 8),
        "encoding_format": st.just("base64"),
        "response_format": JSON,
        "text": JSON,
    },
)


def job_in(directory: Path, endpoint: str, config: SimulatorConfig, done: int) -> ResultsToWrite:
    return ResultsToWrite(
        batch_id="batch_1",
        endpoint=endpoint,
        config=config,
        source=directory / "in",
        done=done,
        unexecuted=("batch_expired", "late"),
        output=directory / "out",
        errors=directory / "err",
        now=int(time.time()),
    )


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({}, None, None),
        ({"temperature": 2}, None, None),
        ({"max_tokens": 1}, None, None),
        ({"temperature": 2.1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": True}, 400, "temperature"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens"),
        ({"n": 1.5}, 400, "n"),
        ({"messages": None}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"content": "hello"}]}, 400, "messages[0].role"),
        ({"stream": True}, 400, "stream"),
        ({"model": None}, 400, None),
        ({"model": "no-such-model"}, 404, "model"),
    ],
)
def test_a_chat_request_is_refused_as_openai_does(
    change: dict[str, Any], status: int | None, param: str | None
) -> None:
    refused = refusal(CHAT, "id", {**GOOD, **change}, CONFIG)
    assert (refused and refused.status, refused and refused.param) == (status, param)


def test_an_unlucky_request_gets_the_configured_status() -> None:
    config = SimulatorConfig(request_failure_share=1, request_failure_status=429)
    refused = refusal(CHAT, "id", GOOD, config)
    assert refused is not None
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")


def test_an_answer_is_cut_at_its_token_limit() -> None:
    whole = respond(CHAT, GOOD, key="k", now=1)
    cut = respond(CHAT, {**GOOD, "max_tokens": 2}, key="k", now=1)
    assert whole.body["choices"][0]["finish_reason"] == "stop"
    assert cut.body["choices"][0]["finish_reason"] == "length"
    assert cut.output_tokens == 2 < whole.output_tokens


def test_json_is_answered_where_json_is_wanted() -> None:
    body = {**GOOD, "response_format": {"type": "json_object"}}
    content = respond(CHAT, body, key="k", now=1).body["choices"][0]["message"]["content"]
    assert "hello" in json.loads(content)["answer"]


def test_embeddings_are_unit_vectors_and_always_the_same() -> None:
    body = {"model": "text-embedding-3-small", "input": ["a", "b", "a"], "dimensions": 16}
    data = respond("/v1/embeddings", body, key="k", now=1).body["data"]
    first, second, third = (item["embedding"] for item in data)
    assert len(first) == 16
    assert first == third != second
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-5)


def test_text_is_found_in_all_its_forms() -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}]
    assert text_of([{"role": "user", "content": parts}, "this"]) == "see\nthis"


def test_endpoints_of_the_api_and_of_the_answers_are_the_same() -> None:
    allowed = CreateBatch.model_json_schema()["properties"]["endpoint"]["enum"]
    assert set(allowed) == set(ENDPOINTS)


@settings(max_examples=150, deadline=None)
@given(
    endpoint=st.sampled_from(ENDPOINTS), bodies=st.lists(BODY, max_size=4), done=st.integers(0, 4)
)
def test_no_request_breaks_a_batch(
    tmp_path_factory: pytest.TempPathFactory, endpoint: str, bodies: list[dict[str, Any]], done: int
) -> None:
    """Every request ends in one of the files, and the counts agree with what was foreseen."""
    directory = tmp_path_factory.mktemp("batch")
    lines = (
        json.dumps({"custom_id": str(n), "method": "POST", "url": endpoint, "body": body})
        for n, body in enumerate(bodies)
    )
    (directory / "in").write_text("\n".join(lines))
    found = inspect(directory / "in", endpoint, CONFIG)
    assert found.total == len(bodies)
    if found.errors:
        return

    done = min(done, found.total)
    tally = write_results(job_in(directory, endpoint, CONFIG, done))
    assert tally.completed == done - found.failed_among(done)
    assert tally.completed + tally.failed == found.total
    assert len((directory / "out").read_bytes().splitlines()) == tally.completed
    assert len((directory / "err").read_bytes().splitlines()) == tally.failed


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode())))
def test_no_file_breaks_the_inspection(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("file") / "in"
    path.write_bytes(b"\n".join(lines))
    assert inspect(path, CHAT, CONFIG).errors


def test_deeply_nested_content_is_taken(tmp_path: Path) -> None:
    content = "[" * 900 + "]" * 900
    line = f'{{"custom_id":"a","method":"POST","url":"{CHAT}","body":'
    line += f'{{"model":"m","messages":[{{"role":"user","content":{content}}}]}}}}'
    (tmp_path / "in").write_text(line)
    assert inspect(tmp_path / "in", CHAT, CONFIG).errors == ()
    assert write_results(job_in(tmp_path, CHAT, CONFIG, 1)).completed == 1


def test_too_many_embedding_inputs_are_too_many_tasks(tmp_path: Path) -> None:
    body = {"model": "m", "input": ["x"] * 50_001}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    (tmp_path / "in").write_text(json.dumps(request))
    found = inspect(tmp_path / "in", "/v1/embeddings", CONFIG)
    assert [error.code for error in found.errors] == ["too_many_tasks"]


@pytest.mark.parametrize(
    "fields",
    [
        {"validating_s": -1},
        {"validating_s": float("nan")},
        {"request_failure_share": 1.1},
        {"request_failure_status": 200},
        {"webhook_secret": "hunter2"},
        {"webhook_secret": "whsec_"},
        {"webhook_url": "file:///etc/passwd", "webhook_secret": "whsec_YWJj"},
        {"webhook_url": "http://127.0.0.1/"},
        {"extra_status": "completed"},
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SimulatorConfig.model_validate(fields)


def test_secrets_do_not_show() -> None:
    config = SimulatorConfig.model_validate({"webhook_secret": "whsec_YWJj"})
    assert "YWJj" not in repr(config)
    assert "YWJj" not in config.model_dump_json()
