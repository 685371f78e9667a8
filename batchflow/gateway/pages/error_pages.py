"""The pages for errors."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from batchflow.errors import StoreUnavailable
from batchflow.gateway.error_responses import MEANINGS, meaning_of, message_of
from batchflow.gateway.pages.templating import render

#: How often a page that waits for Redis reloads.
_RELOAD_S: Final = 3

_ERRORS: Final[tuple[type[Exception], ...]] = (HTTPException, *MEANINGS)


class PageRoute(APIRoute):
    """A route whose errors are pages, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See "Custom Request and APIRoute class" in FastAPI's documentation."""
        handle = super().get_route_handler()

        async def handle_as_page(request: Request) -> Response:
            try:
                return await handle(request)
            except _ERRORS as error:
                return error_page(request, error)

        return handle_as_page


def error_page(request: Request, error: Exception) -> Response:
    """A page that says what went wrong and what to do."""
    meaning = meaning_of(error)
    assert meaning is not None  # noqa: S101 - all of _ERRORS have one
    status, message = meaning.status, message_of(error)
    if isinstance(error, RequestValidationError):
        # People do not know the parameters of a page's address.
        status, message = HTTPStatus.BAD_REQUEST, "The address of this page is not valid."
    page = render(
        request,
        "error.html",
        status_code=status,
        title=meaning.title,
        message=message,
        advice=meaning.advice,
        refresh_s=_RELOAD_S if isinstance(error, StoreUnavailable) else None,
    )
    if isinstance(error, HTTPException) and error.headers:
        page.headers.update(error.headers)
    return page
