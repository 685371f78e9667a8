"""The operation and the outcome that each call to OpenAI reports to its observer."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import httpx2
import openai
import pytest

from batchflow.errors import BlobUnavailable, OpenAIError, OpenAIUnavailable
from batchflow.openai_client.calls import CallOutcome, Operation
from batchflow.openai_client.client import OpenAIApi

Reported = list[tuple[Operation, CallOutcome]]
Responder = Callable[[httpx2.Request], httpx2.Response]

BATCH = {
    "id": "batch_1",
    "object": "batch",
    "status": "completed",
    "created_at": 1,
    "completion_window": "24h",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-1",
}
FILE = {
    "id": "file-1",
    "object": "file",
    "filename": "in.jsonl",
    "created_at": 1,
    "bytes": 1,
    "purpose": "batch",
    "status": "processed",
}
CONFIG = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def a_list(*items: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(items), "has_more": False}


@pytest.fixture
def reported() -> Reported:
    return []


@pytest.fixture
def api(reported: Reported) -> Iterator[Callable[[Responder], OpenAIApi]]:
    """Makes an API whose server is a function."""
    clients: list[openai.OpenAI] = []

    def make(respond: Responder) -> OpenAIApi:
        http = httpx2.Client(transport=httpx2.MockTransport(respond))
        client = openai.OpenAI(
            api_key="sk-test", base_url="http://openai.test/v1", max_retries=0, http_client=http
        )
        clients.append(client)

        def observe(operation: Operation, outcome: CallOutcome, seconds: float) -> None:
            assert 0 <= seconds < 60
            reported.append((operation, outcome))

        return OpenAIApi(client, observe)

    yield make
    for client in clients:
        client.close()


def responding(status: int, body: Any = None) -> Responder:
    return lambda _: httpx2.Response(status, json=body)


def unreachable(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


def late(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadTimeout("late")


@pytest.mark.parametrize(
    ("operation", "body", "call"),
    [
        ("batches.create", BATCH, lambda a: a.create_batch(input_file_id="file-1", config=CONFIG)),
        ("batches.retrieve", BATCH, lambda a: a.retrieve_batch("batch_1")),
        ("batches.cancel", BATCH, lambda a: a.cancel_batch("batch_1")),
        ("batches.list", a_list(BATCH), lambda a: list(a.batch_pages())),
        ("files.create", FILE, lambda a: a.upload_file(BytesIO(b"{}\n"), "in.jsonl")),
        ("files.list", a_list(FILE), lambda a: list(a.file_pages(not_before=LONG_AGO, after=None))),
        ("files.delete", {"id": "file-1", "deleted": True}, lambda a: a.delete_file("file-1")),
        ("files.retrieve", FILE, lambda a: a.retrieve_file("file-1")),
    ],
)
def test_each_operation_reports_its_name(
    api: Callable[[Responder], OpenAIApi],
    reported: Reported,
    operation: str,
    body: Any,
    call: Callable[[OpenAIApi], object],
) -> None:
    call(api(responding(200, body)))
    assert reported == [(operation, "ok")]


@pytest.mark.parametrize(
    ("respond", "outcome"),
    [
        (responding(429), "rate_limited"),
        (responding(401), "unauthorized"),
        (responding(403), "unauthorized"),
        (responding(400), "refused"),
        (responding(404), "refused"),
        (responding(500), "unavailable"),
        (responding(503), "unavailable"),
        (responding(200, ["not a batch"]), "unavailable"),
        (unreachable, "unavailable"),
        (late, "unavailable"),
    ],
)
def test_a_failed_call_reports_its_outcome(
    api: Callable[[Responder], OpenAIApi], reported: Reported, respond: Responder, outcome: str
) -> None:
    with pytest.raises(OpenAIError):
        api(respond).create_batch(input_file_id="file-1", config=CONFIG)
    assert reported == [("batches.create", outcome)]


def test_a_refused_cancel_is_followed_by_a_retrieve(
    api: Callable[[Responder], OpenAIApi], reported: Reported
) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        refused = request.url.path.endswith("/cancel")
        return httpx2.Response(409 if refused else 200, json=BATCH)

    api(respond).cancel_batch("batch_1")
    assert reported == [("batches.cancel", "unavailable"), ("batches.retrieve", "ok")]


def test_a_server_without_lists_has_no_pages(
    api: Callable[[Responder], OpenAIApi], reported: Reported
) -> None:
    assert list(api(responding(501)).batch_pages()) == []
    assert list(api(responding(404)).batch_pages()) == []
    assert reported == [("batches.list", "unavailable"), ("batches.list", "refused")]


def test_each_page_is_a_call(api: Callable[[Responder], OpenAIApi], reported: Reported) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        more = "after" not in request.url.params
        batch = BATCH | {"id": "batch_1" if more else "batch_2"}
        return httpx2.Response(200, json=a_list(batch) | {"has_more": more})

    assert len(list(api(respond).batch_pages())) == 2
    assert reported == [("batches.list", "ok")] * 2


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (OSError("the disk is full"), "abandoned"),
        (OpenAIUnavailable("cut", outcome_unknown=False), "unavailable"),
    ],
)
def test_a_download_reports_how_reading_ended(
    api: Callable[[Responder], OpenAIApi], reported: Reported, error: Exception | None, outcome: str
) -> None:
    def read() -> None:
        with api(responding(200, {})).file_content("file-1") as (_, chunks):
            assert reported == []
            assert b"".join(chunks) == b"{}"
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            read()
    else:
        read()
    assert reported == [("files.content", outcome)]


def test_a_file_that_cannot_be_read_aborts_its_upload(
    api: Callable[[Responder], OpenAIApi], reported: Reported
) -> None:
    class Unreadable(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise BlobUnavailable("It was changed.")

    with pytest.raises(BlobUnavailable, match="It was changed"):
        api(responding(200, FILE)).upload_file(Unreadable(b"{}\n"), "in.jsonl")
    assert reported == [("files.create", "abandoned")]
