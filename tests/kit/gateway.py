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
    """A running gateway."""

    #: ``http://127.0.0.1:<port>``
    url: str
    settings: Settings
    #: The store in its Redis.
    store: JobStore

    def client(self, token: str = "") -> httpx2.Client:
        """A client that does not follow redirects, and sends the token if there is one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=20)


@contextmanager
def running_gateway(settings: Settings) -> Iterator[Gateway]:
    """Run the gateway as ``batchflow gateway`` does.

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
        assert server.started, "the gateway did not start; see its log"
        with store.redis:
            yield Gateway(f"http://127.0.0.1:{port}", settings, store)
    finally:
        server.should_exit = True
        thread.join()
