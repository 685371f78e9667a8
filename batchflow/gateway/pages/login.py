"""The login page: a browser shows the token once, and is given a session for it."""

import re
import time
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from batchflow.gateway.pages.error_pages import PageRoute
from batchflow.gateway.pages.templating import render
from batchflow.gateway.security.access import AppAccess, check_csrf, principal_of
from batchflow.gateway.security.rate_limits import LOGINS, AppRateLimiter

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: A path of ours: browsers take two slashes, or a backslash, for the begin of another host.
_OWN_PATH: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*", re.ASCII)


@router.get("/login")
async def show(request: Request, access: AppAccess, next: str = "/") -> Response:  # noqa: A002 - the address says so
    """The form; ``next`` is the page that was asked for."""
    if access.is_authorized(principal_of(request)):
        return _go_to(next)
    return render(request, "login.html", error="", next=next)


@router.post("/login")
async def log_in(
    request: Request,
    access: AppAccess,
    rate_limiter: AppRateLimiter,
    token: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002 - the address says so
) -> Response:
    """Begin a session, or say what is wrong."""
    if wait_s := await rate_limiter.wait_s(LOGINS, request):
        raise HTTPException(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"Too many tries. Try again in {wait_s} s.",
            {"Retry-After": str(wait_s)},
        )
    if not access.is_token(token.strip()):
        error = "That is not the token. It is what BATCHFLOW_API_TOKEN says where the gateway runs."
        status = HTTPStatus.UNAUTHORIZED
        return render(request, "login.html", status_code=status, error=error, next=next)
    principal_of(request).session = access.sessions.begin(time.time())
    return _go_to(next)


@router.post("/logout", dependencies=[Depends(check_csrf)])
async def log_out(request: Request) -> Response:
    """Let the browser forget its session."""
    principal_of(request).session = None
    return _go_to("/")


def _go_to(path: str) -> Response:
    return RedirectResponse(path if _OWN_PATH.fullmatch(path) else "/", HTTPStatus.SEE_OTHER)
