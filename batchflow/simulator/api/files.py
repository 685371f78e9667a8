"""OpenAI's Files API."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from batchflow.simulator.api.paging import find, list_page
from batchflow.simulator.api_error import ApiError, invalid, missing, not_found
from batchflow.simulator.engine.files import StoredFile
from batchflow.simulator.engine.state import SimulatorState

#: What error messages call the objects.
_KIND = "File object"
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
#: The most bytes that form fields and part headers add to an upload.
_MAX_FORM_BYTES = 64 * 1024
#: An upload that is too large is read up to this multiple of the limit before it is refused.
_MAX_OVERRUN = 4
_CHUNK_BYTES = 256 * 1024
_MAX_FILENAME_CHARS = 512
_MIN_EXPIRY_S, _MAX_EXPIRY_S = 3600, 2_592_000
#: Files with the purpose `batch` expire after 30 days by default.
_DEFAULT_BATCH_EXPIRY_S = 2_592_000
_MAX_LIMIT = 10_000


async def create(state: SimulatorState, request: Request, organization: str) -> Response:
    """`POST /v1/files`: multipart, written to disk as it arrives."""
    form = await _read_form(request, state.config.max_file_bytes)
    try:
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            raise missing("file")
        if not isinstance(purpose, str) or not purpose:
            raise missing("purpose")
        filename = _displayable_filename(upload.filename)
        _check_upload(upload, filename, purpose, state.config.max_file_bytes)
        expires_after_s = _expiry(form, purpose)
        path = state.files.new_path()
        await asyncio.to_thread(_copy, upload.file, path)
    finally:
        await form.close()
    stored = state.files.add(
        path,
        organization=organization,
        filename=filename,
        purpose=purpose,
        now=time.time(),
        expires_after_s=expires_after_s,
    )
    state.files_uploaded += 1
    return JSONResponse(stored.to_json())


async def list_(state: SimulatorState, request: Request, organization: str) -> Response:
    purpose = request.query_params.get("purpose")
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        message = "Invalid value for 'order'. Supported values are: 'asc' and 'desc'."
        raise invalid(message, "order")
    return list_page(
        request,
        state.files.of(organization),
        StoredFile.to_json,
        kind=_KIND,
        default_limit=_MAX_LIMIT,
        max_limit=_MAX_LIMIT,
        newest_first=order == "desc",
        keep=lambda stored: purpose is None or stored.purpose == purpose,
    )


async def retrieve(state: SimulatorState, request: Request, organization: str) -> Response:
    return JSONResponse(find(request, state.files.of(organization), _KIND).to_json())


async def content(state: SimulatorState, request: Request, organization: str) -> Response:
    """`GET /v1/files/{id}/content`: streamed from disk."""
    stored = find(request, state.files.of(organization), _KIND)
    try:
        file = await asyncio.to_thread(stored.path.open, "rb")
    except FileNotFoundError:  # deleted since the lookup
        raise not_found(_KIND, stored.id) from None
    headers = {"content-length": str(stored.size_bytes)}
    return StreamingResponse(_chunks(file), media_type="application/octet-stream", headers=headers)


async def delete(state: SimulatorState, request: Request, organization: str) -> Response:
    stored = find(request, state.files.of(organization), _KIND)
    state.files.remove(stored)
    return JSONResponse({"id": stored.id, "object": "file", "deleted": True})


async def _read_form(request: Request, max_file_bytes: int) -> FormData:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "The body of an upload must be multipart/form-data.")
    stream = _limit_size(request, max_file_bytes + _MAX_FORM_BYTES)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=10)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"Could not parse multipart form: {error.message}") from None


async def _limit_size(request: Request, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes * _MAX_OVERRUN:
            raise _too_large(limit_bytes)
        # Discard the rest: a client that is still sending would miss an early response.
        if size <= limit_bytes:
            yield chunk
    if size > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> ApiError:
    message = f"The file is too large. The limit is {limit_bytes} bytes."
    return ApiError(413, message, param="file", code="file_too_large")


def _displayable_filename(filename: str | None) -> str:
    """The client's file name as valid Unicode; never used as a path."""
    name = (filename or "upload").encode("utf-8", "replace").decode()
    return name[:_MAX_FILENAME_CHARS]


def _check_upload(upload: UploadFile, filename: str, purpose: str, max_file_bytes: int) -> None:
    if purpose not in PURPOSES:
        message = f"'{purpose[:100]}' is not one of {list(PURPOSES)} - 'purpose'"
        raise invalid(message, "purpose")
    if purpose == "batch" and not filename.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")
    if (upload.size or 0) > max_file_bytes:
        raise _too_large(max_file_bytes)


def _expiry(form: FormData, purpose: str) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return _DEFAULT_BATCH_EXPIRY_S if purpose == "batch" else None
    if anchor != "created_at":
        message = "Invalid value for 'expires_after.anchor'. Supported values are: 'created_at'."
        raise invalid(message, "expires_after.anchor")
    valid = isinstance(seconds, str) and seconds.isascii() and seconds.isdigit()
    given = int(str(seconds)[:10]) if valid else -1
    if not _MIN_EXPIRY_S <= given <= _MAX_EXPIRY_S:
        message = (
            "Invalid 'expires_after.seconds': expected an integer from "
            f"{_MIN_EXPIRY_S} to {_MAX_EXPIRY_S}."
        )
        raise invalid(message, "expires_after.seconds")
    return given


def _copy(source: BinaryIO, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK_BYTES)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
