"""Leases when a reply of Redis is lost."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from batchflow_workers.lease import lease

from batchflow.settings import Settings
from batchflow.store import connect


@contextmanager
def losing_a_reply(address: tuple[str, int], command: bytes) -> Iterator[int]:
    """A proxy that drops the first reply to a command, and the connection; yields its port.

    The command is the first one that contains ``command``.
    """
    lost = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(address) as server:
            # A client sends a command when it has the reply to the previous one.
            while request := client.recv(65_536):
                server.sendall(request)
                reply = server.recv(65_536)
                if command in request and not lost.is_set():
                    lost.set()
                    return
                client.sendall(reply)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    assert lost.is_set()


def test_a_lease_whose_reply_is_lost_is_held_and_released(
    settings: Callable[..., Settings],
) -> None:
    url = urlsplit(str(settings().require_redis_url()))
    address = (url.hostname or "localhost", url.port or 6379)
    with losing_a_reply(address, b"poll:key") as port:
        store = connect(settings(redis_url=f"redis://127.0.0.1:{port}{url.path}"))
        with closing(store.redis):
            for _ in range(2):
                with lease(store, "poll:key", 60) as ours:
                    assert ours
                    with lease(store, "poll:key", 60) as others:
                        assert not others
