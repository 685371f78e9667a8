"""The gateway as a process and over a real connection: start, shutdown, sessions."""

import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from batchflow.gateway.security.access import CSRF_FIELD
from batchflow.gateway.security.middleware import MAX_BODY_BYTES
from batchflow.gateway.security.rate_limit import LOGINS
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import records
from tests.kit.cli import call
from tests.kit.deliveries import OTHER_SECRET, SECRET, delivery, event
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.job_requests import a_job_request
from tests.kit.processes import BIN, Process, clean_environment, until

MakeSettings = Callable[..., Settings]

TOKEN = "a token that is long enough"
HTML = {"Accept": "text/html,*/*;q=0.8"}
_READY = re.compile(r"^Gateway ready: (http://\S+)$", re.MULTILINE)


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start `batchflow gateway` with options and variables."""
    started = []

    def run(*options: str, env: Mapping[str, str] | None = None) -> Process:
        command: list[str | Path] = [BIN / "batchflow", "gateway", "--port", "0", *options]
        environment = {**clean_environment(), "BATCHFLOW_REDIS_URL": redis_url, **(env or {})}
        process = Process("gateway", command, environment, tmp_path / "gateway.log")
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.stop()


def refusal(*options: str, **env: str) -> str:
    """The error, in one line, with which `batchflow gateway` refuses to start."""
    result = call("gateway", "--port", "0", *options, env=env)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    return str(line)


def address(process: Process) -> str:
    return until(lambda: _READY.search(process.log()), "the gateway to be ready")[1]


class TestRefused:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example", ""])
    def test_a_public_address_requires_a_token(self, redis_url: str, host: str) -> None:
        line = refusal("--host", host, BATCHFLOW_REDIS_URL=redis_url)
        assert line.startswith("Error: ")
        assert "BATCHFLOW_API_TOKEN" in line

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BATCHFLOW_API_TOKEN", "hunter2"),
            ("OPENAI_WEBHOOK_SECRET", "hunter2"),
            ("BATCHFLOW_REDIS_URL", ""),
            ("BATCHFLOW_REDIS_URL", "http://user:hunter2@localhost"),
            ("BATCHFLOW_REDIS_URL", "redis://localhost/x?y=z"),
        ],
    )
    def test_an_invalid_value_is_named_but_not_shown(
        self, redis_url: str, name: str, value: str
    ) -> None:
        line = refusal(**{"BATCHFLOW_REDIS_URL": redis_url, name: value})
        assert name in line
        assert "hunter2" not in line


class TestProcess:
    def test_a_public_address_works_with_a_token(self, start: Callable[..., Process]) -> None:
        process = start("--host", "0.0.0.0", env={"BATCHFLOW_API_TOKEN": TOKEN})
        url = address(process).replace("0.0.0.0", "127.0.0.1")
        with httpx2.Client(base_url=url) as http:
            assert http.get("/healthz").status_code == 200
            assert http.get("/api/jobs").status_code == 401
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            assert http.get("/api/jobs?text=hunter2", headers=bearer).status_code == 200
        # Searches are not logged.
        assert "hunter2" not in process.log()
        assert TOKEN not in process.log()

    def test_a_trusted_proxy_sets_the_client_and_the_scheme(
        self, start: Callable[..., Process]
    ) -> None:
        process = start("--proxy", "127.0.0.1", env={"BATCHFLOW_API_TOKEN": TOKEN})
        with httpx2.Client(base_url=address(process)) as http:
            for n in range(LOGINS.amount + 5):
                named = {"X-Forwarded-For": f"192.0.2.{n}", "X-Forwarded-Proto": "https"}
                answer = http.post("/login", data={"token": TOKEN}, headers=named)
                assert answer.status_code == 303
                assert "; Secure" in answer.headers["set-cookie"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_in_spite_of_open_streams(
        self, start: Callable[..., Process], number: signal.Signals
    ) -> None:
        process = start()
        url = address(process)
        with httpx2.stream("GET", f"{url}/api/events") as events:
            assert events.status_code == 200
            process.signal(number)
            assert process.wait() == 0
        # uvicorn logs it when it has to cancel requests.
        assert "graceful shutdown" not in process.log()
        assert "Traceback" not in process.log()

    def test_a_port_in_use_is_reported(self, start: Callable[..., Process]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            process = start("--port", str(taken.getsockname()[1]))
            assert process.wait() != 0
            assert "address already in use" in process.log()
            assert "Gateway ready" not in process.log()


@pytest.fixture
def guarded(settings: MakeSettings) -> Iterator[Gateway]:
    with running_gateway(settings(api_token=TOKEN, webhook_secrets=SECRET)) as gateway:
        yield gateway


def a_running_job(gateway: Gateway) -> str:
    job_request = a_job_request()
    gateway.store.run(records.create(job_request, due_in_s=60))
    return job_request.job_id


def csrf_token(page: httpx2.Response) -> str:
    match = re.search(rf'name="{CSRF_FIELD}" value="([^"]+)"', page.text)
    assert match, page.text
    return match[1]


class TestBrowser:
    def test_a_form_needs_its_csrf_token_without_a_token_too(self, settings: MakeSettings) -> None:
        with running_gateway(settings()) as gateway:
            job_id, other = a_running_job(gateway), httpx2.Client(base_url=gateway.url)
            headers = {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}
            with httpx2.Client(base_url=gateway.url) as browser, other:
                form = {CSRF_FIELD: csrf_token(browser.get(f"/jobs/{job_id}"))}
                path = f"/jobs/{job_id}/cancel"
                # Without the cookie of the page.
                assert other.post(path, data=form, headers=headers).status_code == 403
                assert browser.post(path, headers=headers).status_code == 403
                foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
                assert browser.post(path, data=form, headers=foreign).status_code == 403
                assert state(gateway, job_id) == JobState.QUEUED
                assert browser.post(path, data=form, headers=headers).status_code == 303
                assert state(gateway, job_id) == JobState.CANCELLED


def state(gateway: Gateway, job_id: str) -> JobState:
    job = gateway.store.run(records.get(job_id))
    assert job
    return job.state


class TestConnection:
    def test_responses_do_not_name_the_server(self, guarded: Gateway) -> None:
        with guarded.client() as http:
            assert "server" not in http.get("/healthz").headers

    def test_forwarded_headers_of_untrusted_clients_are_ignored(self, guarded: Gateway) -> None:
        with guarded.client() as http:
            answers = [
                http.post("/login", data={"token": "x"}, headers={"X-Forwarded-For": f"10.0.0.{n}"})
                for n in range(LOGINS.amount + 1)
            ]
            assert answers[-1].status_code == 429

    def test_a_stream_is_not_buffered(self, settings: MakeSettings) -> None:
        with (
            running_gateway(settings()) as gateway,
            gateway.client() as http,
            http.stream("GET", "/api/events") as events,
        ):
            assert events.headers["content-type"].startswith("text/event-stream")
            job_id = a_running_job(gateway)
            assert any(job_id in line for line in events.iter_lines())

    @pytest.mark.parametrize("path", ["/webhooks/openai", "/login"])
    def test_a_large_body_of_unknown_length_is_not_read_to_the_end(
        self, guarded: Gateway, path: str
    ) -> None:
        sent = 0

        def endless() -> Iterator[bytes]:
            nonlocal sent
            while sent < 1_000 * MAX_BODY_BYTES:
                yield b"token=" + b"x" * 8_192
                sent += 8_192

        form = {"Content-Type": "application/x-www-form-urlencoded"}
        with guarded.client() as http:
            try:
                answer = http.post(path, content=endless(), headers=form)
            except httpx2.NetworkError:
                # The gateway closed the connection during the request.
                pass
            else:
                assert answer.status_code == (400 if path.startswith("/webhooks") else 413)
        assert sent < 500 * MAX_BODY_BYTES

    def test_a_forged_webhook_is_answered_while_redis_hangs(self, settings: MakeSettings) -> None:
        """It is counted after the response."""
        with socket.socket() as hanging:
            hanging.bind(("127.0.0.1", 0))
            hanging.listen()
            url = f"redis://127.0.0.1:{hanging.getsockname()[1]}/0"
            with running_gateway(settings(redis_url=url, webhook_secrets=SECRET)) as gateway:
                forged = delivery(event("batch_1"), at_s=time.time(), secret=OTHER_SECRET)
                with gateway.client() as http:
                    began = time.monotonic()
                    answer = http.post(
                        "/webhooks/openai", content=forged.body, headers=dict(forged.headers)
                    )
                assert answer.status_code == 400
                assert time.monotonic() - began < 2
