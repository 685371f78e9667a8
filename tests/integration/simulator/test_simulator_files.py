"""Files, lists, and invalid calls."""

from collections.abc import Callable

import openai
import pytest
from openai.types import Batch

from tests.kit.simulator import CHAT, SimulatorClient, requests


def test_files_are_listed_read_and_deleted(simulator: SimulatorClient) -> None:
    content = requests(3)
    made = [simulator.upload(content, f"{n}.jsonl") for n in range(5)]
    first = simulator.client.files.retrieve(made[0].id)
    assert (first.filename, first.bytes, first.purpose) == ("0.jsonl", len(content), "batch")
    assert simulator.client.files.content(first.id).content == content

    newest = simulator.client.files.list(limit=2)
    assert [file.filename for file in newest.data] == ["4.jsonl", "3.jsonl"]
    assert newest.has_more is True
    names = [file.filename for file in simulator.client.files.list(limit=2, order="asc")]
    assert names == [f"{n}.jsonl" for n in range(5)]
    assert simulator.client.files.list(purpose="batch_output").data == []

    assert simulator.client.files.delete(first.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        simulator.client.files.content(first.id)
    assert len(simulator.client.files.list().data) == 4


def test_a_file_name_is_only_a_name(simulator: SimulatorClient) -> None:
    file = simulator.upload(b"{}", "../../../../tmp/evil.jsonl")
    assert file.filename.endswith("evil.jsonl")
    assert simulator.client.files.content(file.id).content == b"{}"


def test_too_large_a_file_is_refused(simulator: SimulatorClient) -> None:
    simulator.control("PATCH", "/config", {"max_file_bytes": 1000})
    with pytest.raises(openai.APIStatusError) as refused:
        simulator.upload(b"x" * 200_000)
    assert refused.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match="too large"):
        simulator.upload(b"x" * 1001)
    assert simulator.upload(b"x" * 1000).bytes == 1000


def test_batches_are_paged_newest_first(simulator: SimulatorClient) -> None:
    made = [simulator.create(requests(1)).id for _ in range(25)]
    page = simulator.client.batches.list()
    assert [batch.id for batch in page.data] == made[:4:-1]
    assert page.has_more is True
    assert [batch.id for batch in simulator.client.batches.list(limit=10)] == made[::-1]


def test_organizations_do_not_see_each_other(simulator: SimulatorClient) -> None:
    batch = simulator.create(requests(1))
    other = simulator.client.with_options(organization="org-other")
    assert list(other.batches.list()) == []
    with pytest.raises(openai.NotFoundError):
        other.batches.retrieve(batch.id)
    everyones = simulator.control("GET", "/batches")["data"]
    assert [(found["id"], found["organization"]) for found in everyones] == [
        (batch.id, "org-default")
    ]


def test_unknown_ids_are_not_found(simulator: SimulatorClient) -> None:
    client = simulator.client
    calls: list[Callable[[], object]] = [
        lambda: client.files.retrieve("file-none"),
        lambda: client.files.content("file-none"),
        lambda: client.files.delete("file-none"),
        lambda: client.batches.retrieve("batch_none"),
        lambda: client.batches.cancel("batch_none"),
        lambda: client.batches.list(after="batch_none"),
        lambda: client.webhooks.retrieve("we_none"),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as error:
            call()
        assert error.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": "gpt-test"}, "model", "unknown_parameter"),
        ({"completion_window": "48h"}, "completion_window", "invalid_value"),
        ({"endpoint": "/v1/nothing"}, "endpoint", "invalid_value"),
        ({"endpoint": None}, "endpoint", "invalid_value"),
        ({"input_file_id": "file-none"}, "input_file_id", "invalid_value"),
        ({"input_file_id": 5}, "input_file_id", "invalid_type"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65, "invalid_value"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            "output_expires_after.seconds",
            "invalid_value",
        ),
    ],
)
def test_a_wrong_batch_is_refused(
    simulator: SimulatorClient, change: dict[str, object], param: str, code: str
) -> None:
    good = {
        "completion_window": "24h",
        "endpoint": CHAT,
        "input_file_id": simulator.upload(requests(1)).id,
    }
    with pytest.raises(openai.BadRequestError) as refused:
        simulator.client.post("/batches", body={**good, **change}, cast_to=Batch)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert simulator.control("GET", "/stats")["batches_created"] == 0


def test_a_file_of_another_purpose_is_refused(simulator: SimulatorClient) -> None:
    file = simulator.client.files.create(file=("a.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        simulator.client.batches.create(
            completion_window="24h", endpoint=CHAT, input_file_id=file.id
        )


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/batches", b"{", 400),
        ("POST", "/v1/batches", b"[]", 400),
        ("POST", "/v1/batches", b"\xff\xfe", 400),
        ("POST", "/v1/batches", b"[" * 100_000, 400),
        ("POST", "/v1/batches", b" " * 2_000_000, 413),
        ("POST", "/v1/files", b"{}", 400),
        ("GET", "/v1/batches?limit=0", None, 400),
        ("GET", "/v1/batches?limit=101", None, 400),
        ("GET", "/v1/batches?limit=many", None, 400),
        ("GET", "/v1/files?order=random", None, 400),
        ("GET", "/v1/models", None, 404),
        ("PUT", "/v1/batches", b"{}", 405),
        ("PATCH", "/simulator/config", b"{", 400),
        ("PATCH", "/simulator/config", b'{"no_such_setting": 1}', 400),
        ("PATCH", "/simulator/config", b'{"validating_s": -1}', 400),
        ("PATCH", "/simulator/config", b'{"validating_s": "soon"}', 400),
        ("PATCH", "/simulator/config", b'{"webhook_secret": "plain"}', 400),
        ("PATCH", "/simulator/config", b'{"webhook_url": "http://127.0.0.1:1"}', 400),
        ("POST", "/simulator/outage", b'{"operations": ["batches.explode"]}', 400),
        ("POST", "/simulator/outage", b'{"status": 200}', 400),
        ("POST", "/simulator/next", b'{"status": "in_progress"}', 400),
        ("POST", "/simulator/next", b'{"status": "failed", "count": 0}', 400),
        ("POST", "/simulator/batches/batch_none/end", b"", 404),
    ],
)
def test_bad_calls_get_an_error_in_openais_shape(
    simulator: SimulatorClient, method: str, path: str, body: bytes | None, status: int
) -> None:
    headers = {"authorization": "Bearer sk-test", "content-type": "application/json"}
    response = simulator.http.request(method, path, content=body, headers=headers)
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["message"]


def test_an_api_key_is_needed(simulator: SimulatorClient) -> None:
    assert simulator.http.get("/v1/files").status_code == 401
    simulator.control("PATCH", "/config", {"refused_keys": ["sk-revoked"]})
    revoked = simulator.client.with_options(api_key="sk-revoked")
    with pytest.raises(openai.AuthenticationError) as refused:
        revoked.files.list()
    assert refused.value.code == "invalid_api_key"
    assert "sk-revoked" not in simulator.http.get("/simulator/config").text
    simulator.client.files.list()
