"""The emulator as its users have it: a process of its own, asked through OpenAI's SDK."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx2
import openai
import pytest
from openai import OpenAI
from openai.types import Batch, FileObject

CHAT: Final = "/v1/chat/completions"
PROGRAM = "from batchflow.simulator.command import simulate; simulate()"
SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cw=="
READY = "OpenAI emulator ready: OPENAI_BASE_URL="
ENDED = ("completed", "failed", "expired", "cancelled")
#: Everything at once, so that a test waits only for what it is about.
INSTANT = {
    "validating_s": 0,
    "in_progress_s": 0,
    "per_request_s": 0,
    "finalizing_s": 0,
    "cancelling_s": 0,
}


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An emulator's process and its base URL."""
    command = [sys.executable, "-c", PROGRAM, "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith(READY), process.stderr.read() if process.stderr else line
            yield process, line.removeprefix(READY).strip()
        finally:
            process.terminate()
            process.communicate(timeout=20)


def until(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """Wait for a condition, and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    pytest.fail("the condition was never met")


def requests(count: int, **body: Any) -> bytes:
    """A batch file of chat requests."""
    return b"".join(line(f"r-{n}", **body) for n in range(count))


def line(custom_id: str, url: str = CHAT, **body: Any) -> bytes:
    """One request of a batch file."""
    wanted = {"model": "gpt-test", "messages": [{"role": "user", "content": custom_id}], **body}
    kept = {name: value for name, value in wanted.items() if value is not None}
    request = {"custom_id": custom_id, "method": "POST", "url": url, "body": kept}
    return json.dumps(request).encode() + b"\n"


@dataclass
class Emulator:
    """An emulator, with shorthands for what most tests do."""

    base_url: str
    client: OpenAI
    http: httpx2.Client

    def control(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/simulator{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def upload(self, content: bytes, name: str = "in.jsonl") -> FileObject:
        return self.client.files.create(file=(name, content), purpose="batch")

    def create(self, content: bytes, endpoint: Any = CHAT, **params: Any) -> Batch:
        file_id = self.upload(content).id
        return self.client.batches.create(
            completion_window="24h", endpoint=endpoint, input_file_id=file_id, **params
        )

    def status_of(self, batch: Batch) -> str:
        return self.client.batches.retrieve(batch.id).status

    def finished(self, batch: Batch) -> Batch:
        def ended() -> Batch | None:
            found = self.client.batches.retrieve(batch.id)
            return found if found.status in ENDED else None

        result: Batch = until(ended)
        return result

    def lines(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        """The lines of a result file by their custom_id."""
        assert file_id is not None
        text = self.client.files.content(file_id).text
        parsed = [json.loads(raw) for raw in text.splitlines()]
        return {item["custom_id"]: item for item in parsed}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running() as (_, base_url):
        yield base_url


@pytest.fixture
def emulator(server: str) -> Iterator[Emulator]:
    """A fresh emulator in which batches end at once."""
    root = server.removesuffix("/v1")
    with (
        OpenAI(api_key="sk-test", base_url=server, max_retries=0) as client,
        httpx2.Client(base_url=root) as http,
    ):
        emulator = Emulator(server, client, http)
        emulator.control("POST", "/reset")
        emulator.control("PATCH", "/config", INSTANT)
        yield emulator


@dataclass
class Receiver:
    """Takes webhooks, and answers with the given status codes first, then with 204."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.received.append((dict(self.headers.items()), body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        receiver.url = f"http://127.0.0.1:{http_server.server_port}/hook"
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield receiver
        http_server.shutdown()
        thread.join()


# The course of a batch


def test_a_batch_passes_through_all_statuses_in_order(emulator: Emulator) -> None:
    pace = {"validating_s": 0.2, "in_progress_s": 0.4, "finalizing_s": 0.2}
    emulator.control("PATCH", "/config", pace)
    batch = emulator.create(requests(20), metadata={"job": "a"})
    assert batch.status == "validating"

    seen: list[Batch] = [batch]
    while seen[-1].status not in ENDED:
        seen.append(emulator.client.batches.retrieve(batch.id))
    statuses = list(dict.fromkeys(found.status for found in seen))
    assert statuses == ["validating", "in_progress", "finalizing", "completed"]

    working = [found.request_counts for found in seen if found.status == "in_progress"]
    progress = [counts.completed for counts in working if counts]
    assert progress == sorted(progress)
    assert any(0 < done < 20 for done in progress)

    last = seen[-1]
    assert last.metadata == {"job": "a"}
    assert last.model == "gpt-test"
    stamps = (last.created_at, last.in_progress_at, last.finalizing_at, last.completed_at)
    assert list(stamps) == sorted(stamp for stamp in stamps if stamp is not None)
    assert last.expires_at == last.created_at + 86_400


def test_requests_that_openai_would_refuse_end_in_the_error_file(emulator: Emulator) -> None:
    content = b"".join(
        [
            line("good"),
            line("hot", temperature=3),
            line("mute", messages=None),
            line("negative", max_tokens=-1),
        ]
    )
    batch = emulator.finished(emulator.create(content))

    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 1, 3)

    output, errors = emulator.lines(batch.output_file_id), emulator.lines(batch.error_file_id)
    good = output["good"]
    assert list(output) == ["good"]
    assert good["id"].startswith("batch_req_")
    assert good["error"] is None
    assert good["response"]["status_code"] == 200
    assert "good" in good["response"]["body"]["choices"][0]["message"]["content"]

    assert {name: item["response"]["status_code"] for name, item in errors.items()} == {
        "hot": 400,
        "mute": 400,
        "negative": 400,
    }
    assert errors["hot"]["response"]["body"]["error"]["param"] == "temperature"
    assert errors["mute"]["response"]["body"]["error"]["param"] == "messages"


def test_a_configured_share_of_requests_fails_and_always_the_same(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"request_failure_share": 0.3, "seed": 7})
    first, second = (emulator.finished(emulator.create(requests(200))) for _ in range(2))

    failed = set(emulator.lines(first.error_file_id))
    assert 30 < len(failed) < 90
    assert failed == set(emulator.lines(second.error_file_id))
    assert len(emulator.lines(first.output_file_id)) == 200 - len(failed)


def test_a_batch_whose_every_request_fails_has_no_output_file(emulator: Emulator) -> None:
    batch = emulator.finished(emulator.create(requests(3, model="no-such-model")))

    assert batch.status == "completed"
    assert batch.output_file_id is None
    errors = emulator.lines(batch.error_file_id)
    assert len(errors) == 3
    assert errors["r-0"]["response"]["status_code"] == 404


def test_a_batch_without_failures_has_no_error_file(emulator: Emulator) -> None:
    batch = emulator.finished(emulator.create(requests(2)))
    assert batch.error_file_id is None
    assert batch.usage is not None
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0


def test_results_come_in_another_order_than_requests(emulator: Emulator) -> None:
    batch = emulator.finished(emulator.create(requests(100)))
    job_request = list(emulator.lines(batch.output_file_id))
    assert job_request != [f"r-{n}" for n in range(100)]
    assert sorted(job_request) == sorted(f"r-{n}" for n in range(100))

    emulator.control("PATCH", "/config", {"shuffle_output": False})
    batch = emulator.finished(emulator.create(requests(100)))
    assert list(emulator.lines(batch.output_file_id)) == [f"r-{n}" for n in range(100)]


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        ("/v1/responses", {"input": "hello"}, "response"),
        ("/v1/embeddings", {"input": ["a", "b"], "dimensions": 4}, "list"),
        ("/v1/completions", {"prompt": "hello"}, "text_completion"),
        ("/v1/moderations", {"input": "hello"}, None),
        ("/v1/images/generations", {"prompt": "a cat"}, None),
        ("/v1/videos", {"prompt": "a cat"}, "video"),
    ],
)
def test_every_endpoint_has_an_answer(
    emulator: Emulator, endpoint: str, body: dict[str, Any], kind: str | None
) -> None:
    content = line("one", url=endpoint, messages=None, **body)
    batch = emulator.finished(emulator.create(content, endpoint=endpoint))
    answer = emulator.lines(batch.output_file_id)["one"]["response"]["body"]
    assert answer.get("object") == kind


def test_file_ids_can_appear_after_completed(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"output_file_lag_s": 0.5})
    batch = emulator.finished(emulator.create(requests(1)))
    assert batch.output_file_id is None
    until(lambda: emulator.client.batches.retrieve(batch.id).output_file_id)


# Batches that end otherwise


@pytest.mark.parametrize(
    ("content", "code", "param", "at"),
    [
        (b"\n", "empty_file", None, None),
        (line("a") + b"{not json\n", "invalid_json_line", None, 2),
        (line("a") + b"\n" + line("b"), "invalid_json_line", None, 2),
        (line("a") + line("a"), "duplicate_custom_id", "custom_id", 2),
        (line("a", url="/v1/embeddings"), "invalid_url", "url", 1),
        (line("a") + line("b", model="gpt-other"), "mismatched_model", "body.model", 2),
        (b'{"method":"POST"}', "missing_required_parameter", "custom_id", 1),
        (b"".join(line(str(n)) for n in range(6)), "too_many_tasks", None, None),
    ],
)
def test_a_batch_with_a_bad_file_fails(
    emulator: Emulator, content: bytes, code: str, param: str | None, at: int | None
) -> None:
    emulator.control("PATCH", "/config", {"max_requests": 5})
    batch = emulator.finished(emulator.create(content))

    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.output_file_id is None
    assert batch.errors is not None
    assert batch.errors.data
    error = batch.errors.data[0]
    assert (error.code, error.param, error.line) == (code, param, at)
    assert error.message


def test_a_batch_that_is_not_done_in_time_expires_with_what_is_done(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"in_progress_s": 2, "completion_window_s": 1})
    batch = emulator.finished(emulator.create(requests(10)))

    assert batch.status == "expired"
    assert batch.expired_at is not None
    output, errors = emulator.lines(batch.output_file_id), emulator.lines(batch.error_file_id)
    assert len(output) + len(errors) == 10
    assert "r-0" in output
    late = errors["r-9"]
    assert late["response"] is None
    assert late["error"]["code"] == "batch_expired"


def test_a_cancelled_batch_keeps_what_is_done(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"in_progress_s": 3, "cancelling_s": 0.2})
    batch = emulator.create(requests(30))

    def some_done() -> bool:
        counts = emulator.client.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 0

    until(some_done)
    cancelling = emulator.client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    assert emulator.client.batches.cancel(batch.id).status == "cancelling"

    cancelled = emulator.finished(batch)
    assert cancelled.status == "cancelled"
    assert cancelled.cancelling_at is not None
    assert cancelled.cancelled_at is not None
    assert 0 < len(emulator.lines(cancelled.output_file_id)) < 30


def test_an_ended_batch_can_not_be_cancelled(emulator: Emulator) -> None:
    batch = emulator.finished(emulator.create(requests(1)))
    with pytest.raises(openai.ConflictError, match="'completed'"):
        emulator.client.batches.cancel(batch.id)


def test_a_batch_that_has_barely_begun_can_be_cancelled(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"validating_s": 60})
    batch = emulator.create(requests(1))
    emulator.client.batches.cancel(batch.id)
    cancelled = emulator.finished(batch)
    assert (cancelled.status, cancelled.output_file_id) == ("cancelled", None)


def test_the_next_batches_fail_as_ordered(emulator: Emulator) -> None:
    job_request = {"status": "failed", "code": "token_limit_exceeded", "count": 2}
    emulator.control("POST", "/next", job_request)
    ended = [emulator.finished(emulator.create(requests(1))) for _ in range(3)]

    assert [batch.status for batch in ended] == ["failed", "failed", "completed"]
    assert ended[0].errors is not None
    assert ended[0].errors.data
    assert ended[0].errors.data[0].code == "token_limit_exceeded"
    assert "Enqueued token limit reached for gpt-test" in (ended[0].errors.data[0].message or "")


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_the_next_batch_stops_short_as_ordered(emulator: Emulator, status: str) -> None:
    emulator.control("POST", "/next", {"status": status, "done_share": 0.25})
    batch = emulator.finished(emulator.create(requests(8)))
    assert batch.status == status
    assert len(emulator.lines(batch.output_file_id)) == 2
    assert len(emulator.lines(batch.error_file_id)) == 6


def test_batches_beyond_the_token_limit_fail_until_there_is_room(emulator: Emulator) -> None:
    slow = {"in_progress_s": 600, "enqueued_token_limit": 15}
    emulator.control("PATCH", "/config", slow)
    first = emulator.create(requests(10))
    until(lambda: emulator.status_of(first) == "in_progress")

    refused = emulator.finished(emulator.create(requests(10)))
    assert refused.errors is not None
    assert refused.errors.data
    assert refused.errors.data[0].code == "token_limit_exceeded"

    emulator.control("POST", f"/batches/{first.id}/end", {"status": "completed"})
    third = emulator.create(requests(10))
    until(lambda: emulator.status_of(third) == "in_progress")


def test_a_status_that_openai_does_not_list_is_shown_for_a_while(emulator: Emulator) -> None:
    emulator.control("POST", "/next", {"status": "paused_by_provider", "shown_s": 0.3})
    batch = emulator.create(requests(1))
    until(lambda: emulator.status_of(batch) == "paused_by_provider")
    assert emulator.finished(batch).status == "completed"


@pytest.mark.parametrize("status", ENDED)
def test_a_live_batch_can_be_ended(emulator: Emulator, status: str) -> None:
    emulator.control("PATCH", "/config", {"in_progress_s": 600})
    batch = emulator.create(requests(4))
    until(lambda: emulator.status_of(batch) == "in_progress")
    ended = emulator.control("POST", f"/batches/{batch.id}/end", {"status": status})
    assert ended["status"] == status
    assert emulator.status_of(batch) == status


def test_a_batch_fails_when_its_input_is_deleted_too_early(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"validating_s": 0.3})
    batch = emulator.create(requests(1))
    emulator.client.files.delete(batch.input_file_id)
    assert emulator.finished(batch).status == "failed"


# Files, lists, and calls that are refused


def test_files_are_listed_read_and_deleted(emulator: Emulator) -> None:
    content = requests(3)
    made = [emulator.upload(content, f"{n}.jsonl") for n in range(5)]
    first = emulator.client.files.retrieve(made[0].id)
    assert (first.filename, first.bytes, first.purpose) == ("0.jsonl", len(content), "batch")
    assert emulator.client.files.content(first.id).content == content

    newest = emulator.client.files.list(limit=2)
    assert [file.filename for file in newest.data] == ["4.jsonl", "3.jsonl"]
    assert newest.has_more is True
    names = [file.filename for file in emulator.client.files.list(limit=2, order="asc")]
    assert names == [f"{n}.jsonl" for n in range(5)]
    assert emulator.client.files.list(purpose="batch_output").data == []

    assert emulator.client.files.delete(first.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        emulator.client.files.content(first.id)
    assert len(emulator.client.files.list().data) == 4


def test_a_file_name_is_only_a_name(emulator: Emulator) -> None:
    file = emulator.upload(b"{}", "../../../../tmp/evil.jsonl")
    assert file.filename.endswith("evil.jsonl")
    assert emulator.client.files.content(file.id).content == b"{}"


def test_too_large_a_file_is_refused(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"max_file_bytes": 1000})
    with pytest.raises(openai.APIStatusError) as refused:
        emulator.upload(b"x" * 200_000)
    assert refused.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match="too large"):
        emulator.upload(b"x" * 1001)
    assert emulator.upload(b"x" * 1000).bytes == 1000


def test_batches_are_paged_newest_first(emulator: Emulator) -> None:
    made = [emulator.create(requests(1)).id for _ in range(25)]
    page = emulator.client.batches.list()
    assert [batch.id for batch in page.data] == made[:4:-1]
    assert page.has_more is True
    assert [batch.id for batch in emulator.client.batches.list(limit=10)] == made[::-1]


def test_organizations_do_not_see_each_other(emulator: Emulator) -> None:
    batch = emulator.create(requests(1))
    other = emulator.client.with_options(organization="org-other")
    assert list(other.batches.list()) == []
    with pytest.raises(openai.NotFoundError):
        other.batches.retrieve(batch.id)
    everyones = emulator.control("GET", "/batches")["data"]
    assert [(found["id"], found["organization"]) for found in everyones] == [
        (batch.id, "org-default")
    ]


def test_unknown_ids_are_not_found(emulator: Emulator) -> None:
    client = emulator.client
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
    emulator: Emulator, change: dict[str, object], param: str, code: str
) -> None:
    good = {
        "completion_window": "24h",
        "endpoint": CHAT,
        "input_file_id": emulator.upload(requests(1)).id,
    }
    with pytest.raises(openai.BadRequestError) as refused:
        emulator.client.post("/batches", body={**good, **change}, cast_to=Batch)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert emulator.control("GET", "/stats")["batches_created"] == 0


def test_a_file_of_another_purpose_is_refused(emulator: Emulator) -> None:
    file = emulator.client.files.create(file=("a.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        emulator.client.batches.create(
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
    emulator: Emulator, method: str, path: str, body: bytes | None, status: int
) -> None:
    headers = {"authorization": "Bearer sk-test", "content-type": "application/json"}
    response = emulator.http.request(method, path, content=body, headers=headers)
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["message"]


def test_an_api_key_is_needed(emulator: Emulator) -> None:
    assert emulator.http.get("/v1/files").status_code == 401
    emulator.control("PATCH", "/config", {"refused_keys": ["sk-revoked"]})
    revoked = emulator.client.with_options(api_key="sk-revoked")
    with pytest.raises(openai.AuthenticationError) as refused:
        revoked.files.list()
    assert refused.value.code == "invalid_api_key"
    assert "sk-revoked" not in emulator.http.get("/simulator/config").text
    emulator.client.files.list()


# Outages


@pytest.mark.parametrize("status", [500, 503])
def test_an_outage_ends_after_its_count(emulator: Emulator, status: int) -> None:
    outage = {"status": status, "count": 2, "operations": ["batches.*"]}
    emulator.control("POST", "/outage", outage)
    emulator.client.files.list()
    for _ in range(2):
        with pytest.raises(openai.InternalServerError) as failure:
            emulator.client.batches.list()
        assert failure.value.status_code == status
    emulator.client.batches.list()
    calls = emulator.control("GET", "/stats")["calls"]
    assert calls["batches.list"] == {str(status): 2, "200": 1}
    assert calls["files.list"] == {"200": 1}


def test_a_rate_limit_says_when_to_try_again(emulator: Emulator) -> None:
    emulator.control("POST", "/outage", {"status": 429, "retry_after_s": 7})
    with pytest.raises(openai.RateLimitError) as limited:
        emulator.client.batches.list()
    assert limited.value.response.headers["retry-after"] == "7"
    emulator.control("DELETE", "/outage")
    emulator.client.batches.list()


@pytest.mark.parametrize("answer", ["drop", "status", "garbage"])
def test_a_reply_can_be_lost_after_the_batch_was_created(emulator: Emulator, answer: str) -> None:
    file = emulator.upload(requests(1))
    outage = {"answer": answer, "after_acting": True, "operations": ["batches.create"]}
    emulator.control("POST", "/outage", outage)
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError, ValueError)):
        emulator.client.batches.create(
            completion_window="24h", endpoint=CHAT, input_file_id=file.id
        )
    assert len(emulator.client.batches.list().data) == 1
    assert emulator.control("GET", "/stats")["batches_created"] == 1


def test_a_dropped_call_does_nothing_by_default(emulator: Emulator) -> None:
    file = emulator.upload(requests(1))
    emulator.control("POST", "/outage", {"answer": "drop", "count": 1})
    with pytest.raises(openai.APIConnectionError):
        emulator.client.batches.create(
            completion_window="24h", endpoint=CHAT, input_file_id=file.id
        )
    assert emulator.client.batches.list().data == []
    assert emulator.control("GET", "/stats")["calls"]["batches.create"] == {"dropped": 1}


def test_garbage_instead_of_json(emulator: Emulator) -> None:
    emulator.control("POST", "/outage", {"answer": "garbage"})
    response = emulator.http.get("/v1/batches", headers={"authorization": "Bearer sk-test"})
    assert response.status_code == 200
    with pytest.raises(ValueError, match="Expecting value"):
        response.json()


def test_a_download_can_break_in_the_middle(emulator: Emulator) -> None:
    file = emulator.upload(requests(500))
    emulator.control("POST", "/outage", {"answer": "cut", "operations": ["files.content"]})
    with pytest.raises(openai.APIConnectionError):
        emulator.client.files.content(file.id)


def test_an_outage_ends_by_itself(emulator: Emulator) -> None:
    emulator.control("POST", "/outage", {"duration_s": 0.3})
    with pytest.raises(openai.InternalServerError):
        emulator.client.batches.list()
    until(lambda: emulator.control("GET", "/outage")["data"] == [])
    emulator.client.batches.list()


def test_an_outage_during_an_upload_is_answered(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"outages": [{"operations": ["files.create"]}]})
    with pytest.raises(openai.InternalServerError):
        emulator.upload(b"x" * 3_000_000)
    assert emulator.control("GET", "/files")["data"] == []


# Webhooks


@pytest.mark.parametrize("status", ENDED)
def test_the_end_of_a_batch_is_announced_and_signed(
    emulator: Emulator, receiver: Receiver, status: str
) -> None:
    webhook = {"webhook_url": receiver.url, "webhook_secret": SECRET}
    emulator.control("PATCH", "/config", webhook)
    emulator.control("POST", "/next", {"status": status})
    batch = emulator.create(requests(1))
    until(lambda: receiver.received)

    headers, body = receiver.received[0]
    event = emulator.client.webhooks.unwrap(body, headers, secret=SECRET)
    assert event.type == f"batch.{status}"
    assert event.id.startswith("evt_")
    assert json.loads(body)["data"] == {"id": batch.id}
    assert json.loads(body)["object"] == "event"
    assert emulator.status_of(batch) == status


def test_a_refused_delivery_is_tried_again(emulator: Emulator, receiver: Receiver) -> None:
    receiver.statuses = [500, 302]
    emulator.control(
        "PATCH",
        "/config",
        {"webhook_url": receiver.url, "webhook_secret": SECRET, "webhook_backoff_s": 0.05},
    )
    emulator.create(requests(1))
    until(lambda: emulator.control("GET", "/stats")["webhooks"].get("delivered"))
    names = {headers["webhook-id"] for headers, _ in receiver.received}
    assert (len(receiver.received), len(names)) == (3, 1)


def test_deliveries_can_be_dropped_and_doubled(emulator: Emulator, receiver: Receiver) -> None:
    webhook = {"webhook_url": receiver.url, "webhook_secret": SECRET}
    emulator.control("PATCH", "/config", {**webhook, "webhook_drop_share": 1})
    emulator.create(requests(1))
    until(lambda: emulator.control("GET", "/stats")["webhooks"].get("dropped"))

    twice = {"webhook_drop_share": 0, "webhook_duplicate_share": 1, "webhook_reorder_s": 0.1}
    emulator.control("PATCH", "/config", twice)
    emulator.create(requests(1))
    until(lambda: len(receiver.received) == 2)
    assert len({event["id"] for event in receiver.events()}) == 1


def test_endpoints_are_managed_through_the_sdk(emulator: Emulator, receiver: Receiver) -> None:
    webhooks = emulator.client.webhooks
    made = webhooks.create(
        name="mine", url=receiver.url, event_types=["batch.completed", "batch.failed"]
    )
    assert made.signing_secret.startswith("whsec_")
    assert [endpoint.id for endpoint in webhooks.list()] == [made.id]
    assert "batch.expired" in webhooks.event_types.list().data

    emulator.finished(emulator.create(requests(1)))
    until(lambda: receiver.received)
    headers, body = receiver.received[0]
    assert webhooks.unwrap(body, headers, secret=made.signing_secret).type == "batch.completed"

    rotated = webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != made.signing_secret
    tested = webhooks.test(made.id, event_type="batch.expired")
    assert (tested.success, tested.status_code) == (True, 204)
    headers, body = receiver.received[1]
    for secret in (made.signing_secret, rotated.signing_secret):
        assert webhooks.unwrap(body, headers, secret=secret).type == "batch.expired"

    updated = webhooks.update(made.id, name="renamed", event_types=["batch.failed"])
    assert (updated.name, updated.event_types) == ("renamed", ["batch.failed"])
    assert webhooks.retrieve(made.id).name == "renamed"
    assert webhooks.delete(made.id).deleted is True
    assert list(webhooks.list()) == []


def test_a_wrong_endpoint_is_refused(emulator: Emulator) -> None:
    with pytest.raises(openai.BadRequestError):
        emulator.client.webhooks.create(name="x", url="ftp://x", event_types=["batch.failed"])
    closed = emulator.client.webhooks.create(
        name="x", url="http://127.0.0.1:1/", event_types=["batch.failed"]
    )
    with pytest.raises(openai.BadRequestError, match="could not be reached"):
        emulator.client.webhooks.test(closed.id, event_type="batch.failed")


# The process and its control


def test_settings_can_be_read_changed_and_reset(emulator: Emulator) -> None:
    before = emulator.control("GET", "/config")
    assert before["validating_s"] == 0
    changed = emulator.control("PATCH", "/config", {"seed": 3, "extra_status": "resting"})
    assert (changed["seed"], changed["extra_status"]) == (3, "resting")
    emulator.create(requests(1))

    emulator.control("POST", "/reset")
    assert emulator.control("GET", "/config")["extra_status"] is None
    assert emulator.control("GET", "/config")["validating_s"] == 1.0
    assert emulator.control("GET", "/batches")["data"] == []
    assert emulator.control("GET", "/files")["data"] == []
    assert emulator.control("GET", "/stats")["calls"] == {}


def test_a_live_batch_keeps_the_settings_of_its_creation(emulator: Emulator) -> None:
    emulator.control("PATCH", "/config", {"in_progress_s": 600})
    slow = emulator.create(requests(1))
    emulator.control("PATCH", "/config", {"in_progress_s": 0})
    assert emulator.finished(emulator.create(requests(1))).status == "completed"
    assert emulator.status_of(slow) in ("validating", "in_progress")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_options_set_it_up_and_signals_end_it(end: signal.Signals) -> None:
    options = ("--validating-s", "0", "--no-shuffle-output", "--refused-key", "sk-old")
    outage = ("--outage", '{"status": 429, "operations": ["files.list"]}')
    with running(*options, *outage) as (process, base_url):
        root = base_url.removesuffix("/v1")
        config = httpx2.get(f"{root}/simulator/config").json()
        assert (config["validating_s"], config["shuffle_output"]) == (0, False)
        key = {"authorization": "Bearer sk-new"}
        assert httpx2.get(f"{base_url}/files", headers=key).status_code == 429
        assert httpx2.get(f"{base_url}/batches", headers=key).status_code == 200
        process.send_signal(end)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize(
    "options",
    [
        ("--webhook-secret", "hunter2"),
        ("--request-failure-share", "2"),
        ("--outage", "{"),
        ("--outage", '{"status": 200}'),
    ],
)
def test_wrong_options_are_explained(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", PROGRAM, "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "Error:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stdout == ""
