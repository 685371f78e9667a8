"""The responses to errors: one table for the API's JSON and for the pages."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from batchflow.errors import InvalidInput, JobNotFound, StoreUnavailable, explain_invalid
from batchflow.gateway.security.headers import add_security_headers
from batchflow.queue import QueueUnavailable


@dataclass(frozen=True)
class ErrorMeaning:
    """What an error means to a client, and what a page says about it."""

    status: HTTPStatus
    title: str
    advice: str = ""


#: The errors that a client can cause, or wait for. All others are bugs.
MEANINGS: Final[dict[type[Exception], ErrorMeaning]] = {
    InvalidInput: ErrorMeaning(HTTPStatus.BAD_REQUEST, "Invalid request"),
    JobNotFound: ErrorMeaning(
        HTTPStatus.NOT_FOUND,
        "No such job",
        "The record of a job is deleted some days after the job has ended; see "
        "BATCHFLOW_RETENTION_S.",
    ),
    StoreUnavailable: ErrorMeaning(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The job store is unavailable",
        "Batches continue at OpenAI meanwhile. This page reloads by itself.",
    ),
    QueueUnavailable: ErrorMeaning(HTTPStatus.SERVICE_UNAVAILABLE, "Celery is unavailable"),
    RequestValidationError: ErrorMeaning(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid request"),
    ClientDisconnect: ErrorMeaning(HTTPStatus.BAD_REQUEST, "Incomplete request"),
}


def meaning_of(error: Exception) -> ErrorMeaning | None:
    """The meaning of an error; None for a bug."""
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
        return ErrorMeaning(status, status.phrase)
    return next((MEANINGS[kind] for kind in type(error).__mro__ if kind in MEANINGS), None)


def message_of(error: Exception) -> str:
    """The message of an error that has a meaning."""
    match error:
        case HTTPException():
            return str(error.detail)
        case RequestValidationError():
            return explain_invalid(error, lambda location: ".".join(map(str, location[1:])))
        case ClientDisconnect():
            return "The connection ended before the body did."
    return str(error)


def error_response(status: int, message: str, headers: Any = None) -> JSONResponse:
    """An error as clients of the API get it: ``{"error": {"message": ...}}``."""
    return JSONResponse({"error": {"message": message}}, status, headers)


async def _expected(_: Request, error: Exception) -> Response:
    meaning = meaning_of(error)
    assert meaning is not None  # noqa: S101 - the handler is registered for these alone
    return error_response(meaning.status, message_of(error), getattr(error, "headers", None))


async def _unexpected(_: Request, error: Exception) -> Response:
    # Starlette raises the error again for the server to log, which then closes the connection. This
    # response does not pass through the middleware.
    response = error_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Internal error; see the gateway's log.",
        {"Connection": "close"},
    )
    add_security_headers(response.headers)
    return response


#: For the app, which answers every error in this form.
ERROR_HANDLERS: Final[dict[int | type[Exception], Callable[..., Any]]] = {
    **dict.fromkeys((*MEANINGS, HTTPException), _expected),
    Exception: _unexpected,
}
