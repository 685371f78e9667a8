"""How errors are answered: in one form, without a trace, in one place."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from batchflow.errors import BatchflowError, InvalidInput, JobNotFound, StoreUnavailable
from batchflow.gateway.security.headers import add_security_headers
from batchflow.queue import QueueUnavailable

#: What an error of ours means to a client; all others are ours to mend.
_STATUS: dict[type[BatchflowError], HTTPStatus] = {
    InvalidInput: HTTPStatus.BAD_REQUEST,
    JobNotFound: HTTPStatus.NOT_FOUND,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    QueueUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def error_response(status: int, message: str, headers: Any = None) -> JSONResponse:
    """An error as clients get it: ``{"error": {"message": ...}}``."""
    return JSONResponse({"error": {"message": message}}, status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Let the app answer every error in that form."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    for error in _STATUS:
        app.add_exception_handler(error, _ours)


async def _ours(_: Request, error: Exception) -> Response:
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    return error_response(status, str(error))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    return error_response(error.status_code, str(error.detail), error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    # Which parameter and why; not what was sent.
    problems = (
        f"{'.'.join(str(part) for part in problem['loc'][1:])}: {problem['msg']}"
        for problem in error.errors()
    )
    return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(problems))


async def _gone(_: Request, error: Exception) -> Response:
    # Nobody reads this, and it is no news for the log.
    return error_response(HTTPStatus.BAD_REQUEST, "The connection ended before the body did.")


async def _unexpected(_: Request, error: Exception) -> Response:
    # Starlette raises it again, for the server to log, which then ends the connection. It answers
    # outside of all middleware.
    answer = error_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Something broke; the log says what.",
        {"Connection": "close"},
    )
    add_security_headers(answer.headers)
    return answer
