"""Calls an ASGI app as a server does, also with requests that no client would send."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Message

#: The name and value of a header.
RawHeader = tuple[bytes, bytes]


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Headers
    body: bytes
    #: An error that the app raised for the server to log.
    error: Exception | None

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def message(self) -> str:
        """The message in an error of the API."""
        return str(json.loads(self.body)["error"]["message"])


class InProcess:
    """An app without a server, as a context manager that starts and stops it."""

    def __init__(self, app: FastAPI) -> None:
        #: For tests of its routes and state.
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
        """Send a GET; ``_`` in the names of headers stands for ``-``."""
        return self.request("GET", path, _headers(headers))

    def post(self, path: str, body: bytes | str = b"", **headers: str) -> Answer:
        """Send a POST; the body is a form if it is a string."""
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
        """Send any request. ``Host`` is added if it is missing; with ``breaks_off`` the client
        disconnects in the middle of the body."""
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
                # The start of a stream is enough.
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
