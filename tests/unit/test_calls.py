"""Every call to OpenAI is told to whoever counts: what it was and how it ended."""

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

Told = list[tuple[Operation, CallOutcome]]
Answer = Callable[[httpx2.Request], httpx2.Response]

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
def told() -> Told:
    return []


@pytest.fixture
def api(told: Told) -> Iterator[Callable[[Answer], OpenAIApi]]:
    """Make the API of a server that answers as a function says."""
    clients: list[openai.OpenAI] = []

    def make(answer: Answer) -> OpenAIApi:
        http = httpx2.Client(transport=httpx2.MockTransport(answer))
        client = openai.OpenAI(
            api_key="sk-test", base_url="http://openai.test/v1", max_retries=0, http_client=http
        )
        clients.append(client)

        def observe(operation: Operation, outcome: CallOutcome, seconds: float) -> None:
            assert 0 <= seconds < 60
            told.append((operation, outcome))

        return OpenAIApi(client, observe)

    yield make
    for client in clients:
        client.close()


def answering(status: int, body: Any = None) -> Answer:
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
        ("files.list", a_list(FILE), lambda a: a.find_file("in.jsonl", not_before=LONG_AGO)),
        ("files.delete", {"id": "file-1", "deleted": True}, lambda a: a.delete_file("file-1")),
        ("files.retrieve", FILE, lambda a: a.retrieve_file("file-1")),
    ],
)
def test_each_operation_is_told_by_its_name(
    api: Callable[[Answer], OpenAIApi],
    told: Told,
    operation: str,
    body: Any,
    call: Callable[[OpenAIApi], object],
) -> None:
    call(api(answering(200, body)))
    assert told == [(operation, "ok")]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (answering(429), "rate_limited"),
        (answering(401), "unauthorized"),
        (answering(403), "unauthorized"),
        (answering(400), "refused"),
        (answering(404), "refused"),
        (answering(500), "unavailable"),
        (answering(503), "unavailable"),
        (answering(200, ["no batch"]), "unavailable"),
        (unreachable, "unavailable"),
        (late, "unavailable"),
    ],
)
def test_how_a_call_ended(
    api: Callable[[Answer], OpenAIApi], told: Told, answer: Answer, outcome: str
) -> None:
    with pytest.raises(OpenAIError):
        api(answer).create_batch(input_file_id="file-1", config=CONFIG)
    assert told == [("batches.create", outcome)]


def test_the_look_at_a_batch_that_can_not_be_cancelled_is_a_call_of_its_own(
    api: Callable[[Answer], OpenAIApi], told: Told
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        refused = request.url.path.endswith("/cancel")
        return httpx2.Response(409 if refused else 200, json=BATCH)

    api(answer).cancel_batch("batch_1")
    assert told == [("batches.cancel", "unavailable"), ("batches.retrieve", "ok")]


def test_a_server_without_lists_refuses_and_does_no_harm(
    api: Callable[[Answer], OpenAIApi], told: Told
) -> None:
    assert list(api(answering(501)).batch_pages()) == []
    assert list(api(answering(404)).batch_pages()) == []
    assert told == [("batches.list", "unavailable"), ("batches.list", "refused")]


def test_each_page_of_a_list_is_a_call(api: Callable[[Answer], OpenAIApi], told: Told) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        more = "after" not in request.url.params
        batch = BATCH | {"id": "batch_1" if more else "batch_2"}
        return httpx2.Response(200, json=a_list(batch) | {"has_more": more})

    assert len(list(api(answer).batch_pages())) == 2
    assert told == [("batches.list", "ok")] * 2


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (OSError("the disk is full"), "abandoned"),
        (OpenAIUnavailable("cut", outcome_unknown=False), "unavailable"),
    ],
)
def test_a_transfer_ends_with_who_reads_it(
    api: Callable[[Answer], OpenAIApi], told: Told, error: Exception | None, outcome: str
) -> None:
    def read() -> None:
        with api(answering(200, {})).file_content("file-1") as (_, chunks):
            assert told == []
            assert b"".join(chunks) == b"{}"
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            read()
    else:
        read()
    assert told == [("files.content", outcome)]


def test_a_file_that_can_not_be_read_breaks_its_upload_off(
    api: Callable[[Answer], OpenAIApi], told: Told
) -> None:
    class Torn(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise BlobUnavailable("It was changed.")

    with pytest.raises(BlobUnavailable, match="It was changed"):
        api(answering(200, FILE)).upload_file(Torn(b"{}\n"), "in.jsonl")
    assert told == [("files.create", "abandoned")]
