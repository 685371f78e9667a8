import math
import re
from typing import Any

import pytest

from batchflow.errors import InvalidInput
from batchflow.job_requests.batch_config import check_batch_config

EXPIRY = {"anchor": "created_at", "seconds": 86_400}

GOOD: list[dict[str, Any]] = [
    {},
    {"completion_window": "24h", "endpoint": "/v1/responses"},
    {"completion_window": None, "endpoint": None, "metadata": None, "output_expires_after": None},
    {"model": "gpt-test", "metadata": {}},
    {"metadata": {"k" * 64: "v" * 512}},
    {"metadata": {f"key-{n}": "" for n in range(16)}},
    {"output_expires_after": EXPIRY},
    # Flyte passes every number as a float.
    {"output_expires_after": {**EXPIRY, "seconds": 86_400.0}},
    {"endpoint": "/openai/v1/chat/completions"},
]

BAD: list[tuple[object, str]] = [
    ({"model": "m\n"}, "config['model'] must be a string of 1 to 256 printable characters, not "),
    (None, "config must be a dict, not NoneType."),
    ([("endpoint", "/v1/responses")], "config must be a dict, not list."),
    ("24h", "config must be a dict, not str."),
    (
        {"temperature": 0},
        "config has the unknown key 'temperature'. The valid keys are completion_window, ",
    ),
    ({"input_file_id": "file-1"}, "config has the unknown key 'input_file_id'."),
    ({1: 2}, "config has the unknown key '1'."),
    ({"x" * 1_000: 1}, "config has the unknown key 'xxx"),
    (
        {"endpoint": "v1/responses"},
        "config['endpoint'] must be a path such as '/v1/chat/completions', not 'v1/responses'.",
    ),
    ({"endpoint": ""}, "config['endpoint'] must be a path"),
    ({"endpoint": "https://api.openai.com/v1/responses"}, "config['endpoint'] must be a path"),
    ({"endpoint": "/v1/x?a=b"}, "config['endpoint'] must be a path"),
    ({"endpoint": "/v1/x\n"}, "config['endpoint'] must be a path"),
    ({"endpoint": "/" + "x" * 256}, "config['endpoint'] must be a path"),
    ({"endpoint": 7}, "config['endpoint'] must be a path such as '/v1/chat/completions', not 7."),
    (
        {"completion_window": 24},
        "config['completion_window'] must be a string of 1 to 256 printable characters, not 24.",
    ),
    (
        {"completion_window": ""},
        "config['completion_window'] must be a string of 1 to 256 printable characters, not ''.",
    ),
    (
        {"model": ["a"]},
        "config['model'] must be a string of 1 to 256 printable characters, not ['a'].",
    ),
    ({"metadata": ["a"]}, "config['metadata'] must be a dict of strings, not list."),
    (
        {"metadata": {f"key-{n}": "" for n in range(17)}},
        "config['metadata'] has 17 pairs; OpenAI accepts at most 16.",
    ),
    (
        {"metadata": {"a": 1}},
        "config['metadata'] must map strings to strings; the key 'a' does not.",
    ),
    ({"metadata": {1: "a"}}, "config['metadata'] must map strings to strings; the key 1 does not."),
    ({"metadata": {"": "a"}}, "config['metadata'] has a key of 0 characters, ''; OpenAI accepts 1"),
    ({"metadata": {"k" * 65: "a"}}, "config['metadata'] has a key of 65 characters, 'kkk"),
    (
        {"metadata": {"a": "v" * 513}},
        "config['metadata']['a'] has 513 characters; OpenAI accepts at most 512.",
    ),
    (
        {"metadata": {"batchflow_job": "mine"}},
        "config['metadata'] must not have the key 'batchflow_job', which Batchflow sets.",
    ),
    ({"output_expires_after": 3_600}, "config['output_expires_after'] must be a dict such as "),
    ({"output_expires_after": {"seconds": 3_600}}, "config['output_expires_after'] must be a dict"),
    ({"output_expires_after": {**EXPIRY, "x": 1}}, "config['output_expires_after'] must be a dict"),
    *[
        (
            {"output_expires_after": {**EXPIRY, "seconds": seconds}},
            "config['output_expires_after']['seconds'] must be a whole number, not ",
        )
        for seconds in ("3600", None, True, -1, 3_600.5, math.inf, math.nan)
    ],
]


@pytest.mark.parametrize("config", GOOD)
def test_a_valid_config_passes(config: dict[str, Any]) -> None:
    check_batch_config(config)


@pytest.mark.parametrize(("config", "sentence"), BAD)
def test_a_config_that_is_not_valid_is_refused(config: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match="^" + re.escape(sentence)) as caught:
        check_batch_config(config)
    message = str(caught.value)
    assert message.endswith(".")
    assert len(message) < 500
