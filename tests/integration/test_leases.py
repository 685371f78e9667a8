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
def losing_an_answer(address: tuple[str, int], asked: bytes) -> Iterator[int]:
    """A proxy that drops the first reply to a command that contains ``asked``, and the connection;
    yields its port."""
    lost = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(address) as server:
            # Redis' client asks on a connection when it has its answer.
            while question := client.recv(65_536):
                server.sendall(question)
                answer = server.recv(65_536)
                if asked in question and not lost.is_set():
                    lost.set()
                    return
                client.sendall(answer)

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


def test_a_lease_whose_answer_is_lost_is_held_and_given_back(
    settings: Callable[..., Settings],
) -> None:
    url = urlsplit(str(settings().require_redis_url()))
    address = (url.hostname or "localhost", url.port or 6379)
    with losing_an_answer(address, b"poll:key") as port:
        way = f"redis://127.0.0.1:{port}{url.path}"
        store = connect(settings(redis_url=way))
        with closing(store.redis):
            for _ in range(2):
                with lease(store, "poll:key", 60) as ours:
                    assert ours
                    with lease(store, "poll:key", 60) as others:
                        assert not others
