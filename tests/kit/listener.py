"""A client of the event stream that works like a browser's EventSource."""

import contextlib
import http.client
import json
import socket
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.kit.processes import until

_TIMEOUT_S = 30


@dataclass(frozen=True)
class Event:
    """An event that EventSource passes to a page."""

    kind: str
    id: str
    data: dict[str, Any]


@dataclass(frozen=True)
class StreamRequest:
    """The parameters of a stream: the id to continue after, in either place, and the job."""

    header: str | None = None
    query: str | None = None
    job_id: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the request."""
        return {} if self.header is None else {"Last-Event-ID": self.header}

    @property
    def path(self) -> str:
        """The path of the request, with its query."""
        named = {"last_event_id": self.query, "job_id": self.job_id}
        return f"/api/events?{urlencode({k: v for k, v in named.items() if v is not None})}"


class Listener:
    """An open stream, read in a thread; a context manager that closes it."""

    def __init__(
        self,
        url: str,
        request: StreamRequest | None = None,
        *,
        receive_bytes: int | None = None,
        at_most: int | None = None,
    ) -> None:
        request = request or StreamRequest()
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            str(address.hostname), address.port, timeout=_TIMEOUT_S
        )
        # http.client drops its reference to the socket when the server closes the connection.
        self._socket = self._connection.sock = socket.socket()
        self._socket.settimeout(_TIMEOUT_S)
        if receive_bytes:
            # Limits what the kernel buffers for a client that does not read.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.connect((address.hostname, address.port))
        self._connection.request("GET", request.path, headers=request.headers)
        self.response = self._connection.getresponse()
        #: The number of events after which it stops reading.
        self._at_most = at_most
        self.events: list[Event] = []
        self.comments = 0
        self.last_id = request.header or ""
        self.retry_ms: int | None = None
        #: Whether the server ended the stream properly.
        self.ended_well = False
        self._thread = threading.Thread(target=self._read, name="listener")
        if self.response.status == http.client.OK and not receive_bytes:
            self.start_reading()

    def start_reading(self) -> None:
        """Start reading; done by the constructor unless ``receive_bytes`` is given."""
        self._thread.start()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    @property
    def ids(self) -> list[str]:
        """The ids of the transitions."""
        return [event.id for event in self.events if event.kind == "transition"]

    @property
    def kinds(self) -> list[str]:
        """The kinds of all events."""
        return [event.kind for event in self.events]

    @property
    def listening(self) -> bool:
        """Whether the stream is open."""
        return self._thread.is_alive()

    def until_positioned(self) -> "Listener":
        """Wait for the id after which a reconnect would continue."""
        until(lambda: self.last_id, "the stream to begin", every_s=0.005)
        return self

    def until_it_has(self, number: int) -> "Listener":
        """Wait until it has ``number`` events."""
        until(
            lambda: len(self.events) >= number or not self.listening,
            f"{number} events",
            every_s=0.005,
        )
        assert len(self.events) >= number, f"the stream ended after {len(self.events)} events"
        return self

    def drop(self) -> None:
        """Close the connection abruptly."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._thread.ident:
            self._thread.join()
        self._connection.close()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            while len(self.events) != self._at_most:
                line = self.response.readline().decode()
                if not line:
                    self.ended_well = True
                    return
                name, _, value = line.rstrip("\n").partition(":")
                value = value.removeprefix(" ")
                if name:
                    fields[name] = value
                elif line == "\n":
                    self._dispatch(fields)
                    fields = {}
                else:
                    self.comments += 1
        except (OSError, ValueError, http.client.HTTPException):
            pass  # closed by either side

    def _dispatch(self, fields: dict[str, str]) -> None:
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        # Before the event: a test that sees the event may read its id.
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            data = json.loads(fields["data"])
            self.events.append(Event(fields.get("event", "message"), self.last_id, data))
