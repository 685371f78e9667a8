"""A simulator in a process, and a receiver of its webhooks."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.kit.simulator import INSTANT, SimulatorClient, WebhookReceiver, running_simulator


@pytest.fixture(scope="module")
def simulator_url() -> Iterator[str]:
    with running_simulator() as (_, base_url):
        yield base_url


@pytest.fixture
def simulator(simulator_url: str) -> Iterator[SimulatorClient]:
    """A reset simulator in which batches end without delay."""
    root = simulator_url.removesuffix("/v1")
    with (
        OpenAI(api_key="sk-test", base_url=simulator_url, max_retries=0) as client,
        httpx2.Client(base_url=root) as http,
    ):
        simulator = SimulatorClient(simulator_url, client, http)
        simulator.control("POST", "/reset")
        simulator.control("PATCH", "/config", INSTANT)
        yield simulator


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.received.append((dict(self.headers.items()), body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        receiver.url = f"http://127.0.0.1:{http_server.server_port}/hook"
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield receiver
        http_server.shutdown()
        thread.join()
