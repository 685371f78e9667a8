"""An ASGI app called as a server calls it, byte for byte: what HTTP clients would not send, too."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Message

#: A header as it is on the wire.
RawHeader = tuple[bytes, bytes]


@dataclass(frozen=True)
class Answer:
    """What a client gets."""

    status: int
    headers: Headers
    body: bytes
    #: What was left to the server, for its log.
    error: Exception | None

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()

    @property
    def message(self) -> str:
        """What an error of the API says."""
        return str(json.loads(self.body)["error"]["message"])


class InProcess:
    """A started app, without a server; with ``with``."""

    def __init__(self, app: FastAPI) -> None:
        #: For what a test wants to know of its routes and state.
        self.app = app
        self._lifespan = app.router.lifespan_context(app)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._lifespan.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.run(self._lifespan.__aexit__(kind, error, trace))
        self._runner.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET with headers, in which ``_`` is ``-``."""
        return self.request("GET", path, _headers(headers))

    def post(self, path: str, body: bytes | str = b"", **headers: str) -> Answer:
        """POST; a text is a form."""
        if isinstance(body, str):
            headers["content_type"] = "application/x-www-form-urlencoded"
            body = body.encode()
        headers["content_length"] = str(len(body))
        return self.request("POST", path, _headers(headers), [body])

    def request(
        self,
        method: str,
        path: str,
        headers: Iterable[RawHeader] = (),
        chunks: Sequence[bytes] = (),
        client: str = "127.0.0.1",
        *,
        breaks_off: bool = False,
    ) -> Answer:
        """Any request; ``Host`` is a loopback name unless there is one. One that breaks off ends
        in the middle of its body."""
        headers = [(name.lower(), value) for name, value in headers]
        if not any(name == b"host" for name, _ in headers):
            headers.append((b"host", b"127.0.0.1:8080"))
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": (client, 50_000),
            "server": ("127.0.0.1", 8080),
        }
        return self._runner.run(self._call(scope, chunks, breaks_off))

    async def _call(
        self, scope: dict[str, Any], chunks: Sequence[bytes], breaks_off: bool
    ) -> Answer:
        left, sent, error = [*chunks] or [b""], list[Message](), None
        begun = asyncio.Event()

        async def receive() -> Message:
            if left:
                body = left.pop(0)
                return {"type": "http.request", "body": body, "more_body": breaks_off or bool(left)}
            if not breaks_off:
                # The beginning of a stream is enough.
                await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            begun.set()
            sent.append(message)

        try:
            await self.app(scope, receive, send)
        except Exception as raised:  # noqa: BLE001 - a server would log it
            error = raised
        start, *rest = sent
        body = b"".join(message.get("body", b"") for message in rest)
        return Answer(start["status"], Headers(raw=list(start["headers"])), body, error)


def _headers(named: dict[str, str]) -> list[RawHeader]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
