"""What a page shows instead, when it can't show what was asked for."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from batchflow.errors import InvalidInput, JobNotFound, StoreUnavailable
from batchflow.gateway.pages.templating import render

#: How often a page that waits for Redis looks whether it is back.
_RETRY_S: Final = 3


class PageRoute(APIRoute):
    """A route whose errors are pages, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI, "Custom Request and APIRoute class"."""
        handle = super().get_route_handler()

        async def handle_as_page(request: Request) -> Response:
            try:
                return await handle(request)
            except (
                HTTPException,
                InvalidInput,
                JobNotFound,
                RequestValidationError,
                StoreUnavailable,
            ) as error:
                return error_page(request, error)

        return handle_as_page


def error_page(request: Request, error: Exception) -> Response:
    """A page that says what is wrong and what can be done."""
    status, title, message, advice = _words(error)
    page = render(
        request,
        "error.html",
        status_code=status,
        title=title,
        message=message,
        advice=advice,
        refresh_s=_RETRY_S if isinstance(error, StoreUnavailable) else None,
    )
    if isinstance(error, HTTPException) and error.headers:
        page.headers.update(error.headers)
    return page


def _words(error: Exception) -> tuple[HTTPStatus, str, str, str]:
    """Status, title, message and advice."""
    match error:
        case JobNotFound():
            return (
                HTTPStatus.NOT_FOUND,
                "No such job",
                str(error),
                "A job is forgotten some days after it has ended, see BATCHFLOW_RETENTION_S.",
            )
        case StoreUnavailable():
            return (
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The job store is away",
                str(error),
                "Batches run on at OpenAI meanwhile. This page comes back by itself.",
            )
        case RequestValidationError():
            return (
                HTTPStatus.BAD_REQUEST,
                "That can't be shown",
                "The address of this page asks for something that there isn't.",
                "",
            )
        case HTTPException():
            status = HTTPStatus(error.status_code)
            return status, status.phrase, str(error.detail), ""
        case _:
            return HTTPStatus.BAD_REQUEST, "That can't be shown", str(error), ""
