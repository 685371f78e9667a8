"""The login page: a browser sends the token once, and gets a session."""

import re
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from batchflow.gateway.pages.error_pages import PageRoute
from batchflow.gateway.pages.templating import render
from batchflow.gateway.security.access import AppAccess, check_csrf, new_session, principal_of
from batchflow.gateway.security.rate_limit import LOGINS, AppRateLimiter

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: A path of the gateway. To browsers, two slashes or a backslash begin the name of another host.
_OWN_PATH: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*", re.ASCII)


@router.get("/login")
async def show(request: Request, access: AppAccess, next: str = "/") -> Response:  # noqa: A002 - the parameter's name
    """Show the form; ``next`` is the page that was requested."""
    if access.is_authorized(principal_of(request)):
        return _redirect(next)
    return render(request, "login.html", error="", next=next)


@router.post("/login")
async def log_in(
    request: Request,
    access: AppAccess,
    limiter: AppRateLimiter,
    token: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002 - the parameter's name
) -> Response:
    """Begin a session, or show the form with an error."""
    await limiter.check(LOGINS, request, what="attempts")
    if not access.is_token(token.strip()):
        error = "Wrong token. It is the value of BATCHFLOW_API_TOKEN on the gateway."
        status = HTTPStatus.UNAUTHORIZED
        return render(request, "login.html", status_code=status, error=error, next=next)
    principal_of(request).session = new_session()
    return _redirect(next)


@router.post("/logout", dependencies=[Depends(check_csrf)])
async def log_out(request: Request) -> Response:
    """Let the browser delete its session."""
    principal_of(request).session = None
    return _redirect("/")


def _redirect(path: str) -> Response:
    return RedirectResponse(path if _OWN_PATH.fullmatch(path) else "/", HTTPStatus.SEE_OTHER)
