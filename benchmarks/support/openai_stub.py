"""A stub of OpenAI that costs as little as possible, so that it is rarely the bottleneck.

It counts calls. Batches stay in progress forever, uploads are discarded, and ``file-<bytes>`` is a
result file of that size. ``python -m benchmarks.support.openai_stub PORT [LATENCY_MS
[UPLOAD_MBIT_S]]`` runs it on the loopback, delays every response by the latency, and limits the
rate of uploads.
"""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

_ORGANIZATION = "openai-organization"
_CHUNK_BYTES = 1 << 20
_LARGEST_PAGE = 100


@dataclass
class _Account:
    """An organization's batches as JSON, newest first, and its calls by operation."""

    batches: list[bytes] = field(default_factory=list)
    #: Batch id -> position in the list.
    positions: dict[str, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)


_accounts: dict[str, _Account] = {}
_numbers = itertools.count()
#: The rate at which uploads are received; None for no limit.
_bytes_per_s: float | None = None


def batch_json(batch_id: str, job_id: str, created_at: int, status: str) -> dict[str, Any]:
    """A batch as OpenAI's API returns it, half done."""
    ended = {"completed_at": created_at + 60} if status == "completed" else {}
    return {
        "id": batch_id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": None,
        "input_file_id": "file-input-0123456789abcdef",
        "completion_window": "24h",
        "status": status,
        "output_file_id": "file-output-0123456789abcdef" if ended else None,
        "error_file_id": None,
        "created_at": created_at,
        "in_progress_at": created_at + 10,
        "expires_at": created_at + 86_400,
        "request_counts": {"total": 1000, "completed": 1000 if ended else 500, "failed": 0},
        "metadata": {"batchflow_job": job_id},
        **ended,
    }


def _account(request: Request, operation: str) -> _Account:
    account = _accounts.setdefault(request.headers.get(_ORGANIZATION, ""), _Account())
    account.calls[operation] += 1
    return account


async def _populate(request: Request) -> Response:
    """Set an organization's batches: [[batch id, job id, created_at, status], ...]."""
    entries = orjson.loads(await request.body())
    account = _accounts.setdefault(request.path_params["organization"], _Account())
    account.batches = [orjson.dumps(batch_json(*entry)) for entry in entries]
    account.positions = {entry[0]: n for n, entry in enumerate(entries)}
    return Response(status_code=204)


async def _calls(_: Request) -> Response:
    return _json({name: dict(account.calls) for name, account in _accounts.items()})


async def _list(request: Request) -> Response:
    account = _account(request, "batches.list")
    after = request.query_params.get("after")
    first = account.positions[after] + 1 if after else 0
    size = min(_LARGEST_PAGE, int(request.query_params.get("limit", 20)))
    page = account.batches[first : first + size]
    more = b"true" if first + size < len(account.batches) else b"false"
    body = b'{"object":"list","data":[%b],"has_more":%b}' % (b",".join(page), more)
    return Response(body, media_type="application/json")


async def _retrieve(request: Request) -> Response:
    account = _account(request, "batches.retrieve")
    batch_id = request.path_params["batch_id"]
    if batch_id in account.positions:
        return Response(account.batches[account.positions[batch_id]], media_type="application/json")
    return _json(batch_json(batch_id, "", int(time.time()) - 60, "in_progress"))


async def _create(request: Request) -> Response:
    _account(request, "batches.create")
    await request.body()
    return _json(batch_json(f"batch_{next(_numbers):032x}", "", int(time.time()), "validating"))


async def _upload(request: Request) -> Response:
    _account(request, "files.create")
    size = 0
    started_at = time.monotonic()
    async for chunk in request.stream():
        size += len(chunk)
        if _bytes_per_s:
            await asyncio.sleep(started_at + size / _bytes_per_s - time.monotonic())
    return _json(
        {
            "id": f"file-{next(_numbers):024x}",
            "object": "file",
            "bytes": size,
            "created_at": int(time.time()),
            "filename": "discarded.jsonl",
            "purpose": "batch",
            "status": "processed",
        }
    )


async def _content(request: Request) -> Response:
    _account(request, "files.content")
    size = int(request.path_params["file_id"].removeprefix("file-"))
    return StreamingResponse(
        _result(size), media_type="application/octet-stream", headers={"content-length": str(size)}
    )


async def _result(size: int) -> AsyncIterator[bytes]:
    """Lines of an output file; the last one may be incomplete."""
    answer = {"role": "assistant", "content": "It depends. " * 150}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"message": answer}]}
    line = orjson.dumps({"custom_id": "r-1", "response": {"status_code": 200, "body": body}})
    block = (line + b"\n") * (_CHUNK_BYTES // len(line))
    for sent in range(0, size, len(block)):
        yield block[: size - sent]


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def make_app() -> Starlette:
    """The stub as an ASGI application."""
    return Starlette(
        routes=[
            Route("/v1/batches", _list, methods=["GET"]),
            Route("/v1/batches", _create, methods=["POST"]),
            Route("/v1/batches/{batch_id}", _retrieve, methods=["GET"]),
            Route("/v1/files", _upload, methods=["POST"]),
            Route("/v1/files/{file_id}/content", _content, methods=["GET"]),
            Route("/stub/calls", _calls, methods=["GET"]),
            Route("/stub/batches/{organization}", _populate, methods=["PUT"]),
        ]
    )


def with_latency(app: ASGIApp, latency_s: float) -> ASGIApp:
    """Delay every response."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(latency_s)
        await app(scope, receive, send)

    return respond


if __name__ == "__main__":
    _port, _latency_ms, _mbit_s, *_ = map(float, [*sys.argv[1:], "0", "0"])
    _bytes_per_s = _mbit_s * 1e6 / 8 or None
    uvicorn.run(
        with_latency(make_app(), _latency_ms / 1000) if _latency_ms else make_app(),
        host="127.0.0.1",
        port=int(_port),
        access_log=False,
        log_level="warning",
    )
