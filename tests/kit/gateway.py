"""A real gateway: uvicorn on a free port, in a thread, with a real Redis behind it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from batchflow.gateway.app import make_gateway
from batchflow.gateway.server import Server
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.store import JobStore, connect
from tests.kit.processes import until


@dataclass(frozen=True)
class Gateway:
    """A gateway that listens."""

    #: ``http://127.0.0.1:<port>``
    url: str
    settings: Settings
    #: Its Redis, for what the test wants there or wants to see.
    store: JobStore

    def client(self, token: str = "") -> httpx2.Client:
        """A client that follows no redirect; with a token it shows it."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=20)


@contextmanager
def running_gateway(settings: Settings) -> Iterator[Gateway]:
    """Run the gateway, as ``batchflow gateway`` does, until this is left.

    For instance ``with running_gateway(settings(api_token="...")) as gateway:``.
    """
    port = free_port()
    server = Server(make_gateway(settings), host="127.0.0.1", port=port, on_ready=lambda _: None)
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    store = connect(settings)
    try:
        until(
            lambda: server.started or not thread.is_alive(), "the gateway to listen", every_s=0.01
        )
        assert server.started, "the gateway ended while it started; its log says why"
        with store.redis:
            yield Gateway(f"http://127.0.0.1:{port}", settings, store)
    finally:
        server.should_exit = True
        thread.join()
