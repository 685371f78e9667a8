"""Who may in, and what proves that a form is from one of our pages.

On the loopback and without a token everything is open to what runs on this machine, and to nothing
that a web site makes its browser do. With a token everything but OPEN_PATHS needs it, as
``Authorization: Bearer <token>`` or as the session cookie that the login page gives for it.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import MutableHeaders
from starlette.responses import Response

from batchflow.gateway.security.origin import (
    Host,
    is_browser,
    is_from_other_site,
    same_host,
)
from batchflow.gateway.security.sessions import SESSION_S, Session, Sessions
from batchflow.hosts import is_loopback
from batchflow.openai_client.webhook_events import WEBHOOK_PATH
from batchflow.settings import Settings

#: What machines call that have no token: OpenAI, whose signature is checked, and probes. They may
#: know this machine by any name.
MACHINE_PATHS: Final = frozenset({WEBHOOK_PATH, "/healthz", "/readyz"})
#: What needs no token, beside the files in OPEN_FOLDER.
OPEN_PATHS: Final = MACHINE_PATHS | {"/login"}
OPEN_FOLDER: Final = "/static/"

#: Where a form of our pages has its CSRF token; a script sends the header instead.
CSRF_FIELD: Final = "csrf_token"
CSRF_HEADER: Final = "X-CSRF-Token"

#: Where the request's scope has its Principal.
PRINCIPAL: Final = "batchflow.principal"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass
class Principal:
    """Who sends a request. A session that a route begins or ends is told to the browser."""

    #: The browser's, if it has one.
    session: Session | None
    #: Whether the request itself shows the token.
    has_token: bool


class Access:
    """What is needed to get in, and who has it."""

    def __init__(self, settings: Settings) -> None:
        token = settings.api_token
        # From a file it may have a newline at its end.
        self._token = _digest(token.get_secret_value().strip()) if token else None
        self._public_url = settings.public_url
        self.sessions = Sessions(settings)

    @property
    def is_open(self) -> bool:
        """Whether no token is set."""
        return self._token is None

    def is_token(self, text: str) -> bool:
        """Whether it is the token. How long that takes says nothing about it."""
        return self._token is not None and hmac.compare_digest(_digest(text), self._token)

    def principal(self, request: Request) -> Principal:
        """Who sends a request."""
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        has_token = scheme.lower() == "bearer" and self.is_token(shown.strip())
        cookie = request.cookies.get(self._cookie_name(request), "")
        return Principal(self.sessions.read(cookie, time.time()), has_token)

    def is_authorized(self, principal: Principal) -> bool:
        """Whether they may in."""
        return self.is_open or principal.has_token or principal.session is not None

    def check(self, request: Request) -> None:
        """Raise HTTPException for what is refused whoever sends it."""
        if is_from_other_site(request.method, request.headers, self._public_url):
            raise HTTPException(
                HTTPStatus.FORBIDDEN, "Another web site has sent this. Open the gateway's own page."
            )
        if request.scope["path"] in MACHINE_PATHS:
            return
        host = Host.of(request.headers)
        if host is None:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "The header Host is malformed.")
        # Without a token nothing else keeps a web site from leading its own name to 127.0.0.1 and
        # reading the answers (DNS rebinding).
        if self.is_open and not is_loopback(host.name):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "Without a token the gateway answers on this machine alone, by the name localhost "
                "or 127.0.0.1. Set BATCHFLOW_API_TOKEN to reach it by another one.",
            )

    def set_session_cookie(
        self, request: Request, session: Session | None, headers: MutableHeaders
    ) -> None:
        """Let the browser keep a session, or forget it, with an answer that has these headers."""
        answer = Response()
        answer.set_cookie(
            self._cookie_name(request),
            self.sessions.cookie(session) if session else "",
            max_age=SESSION_S if session else 0,
            secure=self._is_secure(request),
            httponly=True,
            # Not strict: people come from the Flyte console's links. What changes something needs
            # more than the cookie.
            samesite="lax",
        )
        headers.append("Set-Cookie", answer.headers["Set-Cookie"])

    def _cookie_name(self, request: Request) -> str:
        # A browser sends a host's cookies to all of its ports, where there may be other gateways.
        host = Host.of(request.headers)
        port = f"-{host.port}" if host and host.port else ""
        # With the prefix no other host of the domain can set it.
        return f"{'__Host-' if self._is_secure(request) else ''}batchflow{port}"

    def _is_secure(self, request: Request) -> bool:
        """Whether the browser speaks TLS, with us or with a proxy before us."""
        public = self._public_url or ""
        via_proxy = public.startswith("https:") and same_host(public, request.headers)
        return request.scope["scheme"] == "https" or via_proxy


def _of(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


#: For a route's parameter: ``access: AppAccess``.
AppAccess = Annotated[Access, Depends(_of)]


def principal_of(request: Request) -> Principal:
    """Who has sent a request that the gate has let in."""
    principal: Principal = request.scope[PRINCIPAL]
    return principal


def csrf_token(request: Request) -> str:
    """What a form on a page has to send back in CSRF_FIELD; begins a session where there is
    none."""
    access, principal = _of(request), principal_of(request)
    if not access.is_authorized(principal):
        # A session would let them in.
        raise PermissionError("Nobody who has to log in first is given a form of ours.")
    if principal.session is None:
        principal.session = access.sessions.begin(time.time())
    return access.sessions.csrf_token(principal.session)


async def check_csrf(request: Request) -> None:
    """A dependency of every route that changes something: raises HTTPException unless the request
    is from one of our pages, or from no browser at all."""
    access, principal = _of(request), principal_of(request)
    if principal.has_token or (access.is_open and not is_browser(request.headers)):
        return
    shown = request.headers.get(CSRF_HEADER) or await _form_token(request)
    if principal.session is None or not access.sessions.is_csrf_token(principal.session, shown):
        raise HTTPException(
            HTTPStatus.FORBIDDEN, "This page is out of date. Load it again and repeat what you did."
        )


async def _form_token(request: Request) -> str:
    if not request.headers.get("content-type", "").startswith(_FORMS):
        return ""
    shown = (await request.form()).get(CSRF_FIELD)
    return shown if isinstance(shown, str) else ""


def _digest(text: str) -> bytes:
    # Of equal length, whatever was sent, and whatever characters are in it.
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
