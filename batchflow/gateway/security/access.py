"""Authentication and protection against cross-site requests.

Without a token, the gateway serves programs and browsers on this machine, but no request that
another web site makes a browser send. With a token, everything except OPEN_PATHS requires it, as
``Authorization: Bearer <token>`` or as a session cookie, which the login page sets.

The server keeps no sessions: their ids are signed with a key that is derived from the token. So
every gateway knows a session, and a new token ends all of them. Without a token, the key lasts as
long as the process.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import HTTPException, Request
from itsdangerous import BadSignature, Signer, TimestampSigner
from starlette.datastructures import MutableHeaders
from starlette.responses import Response

from batchflow.gateway.connections import from_app
from batchflow.gateway.security.origin import Host, is_browser, is_from_other_site, same_host
from batchflow.hosts import is_loopback
from batchflow.openai_client.webhook_events import WEBHOOK_PATH
from batchflow.settings import Settings

#: Paths for programs without a token: OpenAI, whose signature is verified, and probes. They may use
#: any name of this machine.
MACHINE_PATHS: Final = frozenset({WEBHOOK_PATH, "/healthz", "/readyz"})
#: Paths that need no token, besides the files in OPEN_FOLDER.
OPEN_PATHS: Final = MACHINE_PATHS | {"/login"}
OPEN_FOLDER: Final = "/static/"

#: The field of a form with its CSRF token; a script sends the header instead.
CSRF_FIELD: Final = "csrf_token"
CSRF_HEADER: Final = "X-CSRF-Token"

#: The key of the Principal in a request's scope.
PRINCIPAL_KEY: Final = "batchflow.principal"

#: How long a browser stays logged in.
SESSION_S: Final = 7 * 86_400
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass
class Principal:
    """The sender of a request. A route may begin or end the session; the cookie follows it."""

    #: The id of the browser's session, if it has one.
    session: str | None
    #: Whether the request itself contains the token.
    has_token: bool


class Access:
    """Decides who may send a request."""

    def __init__(self, settings: Settings) -> None:
        token = settings.api_token
        # A token from a file may end with a newline.
        self._token = _digest(token.get_secret_value().strip()) if token else None
        self._public_url = settings.public_url
        key = self._token or secrets.token_bytes(32)
        self._cookies = TimestampSigner(
            key, "batchflow session", key_derivation="hmac", digest_method=hashlib.sha256
        )
        self._csrf_tokens = Signer(
            key, "batchflow csrf", key_derivation="hmac", digest_method=hashlib.sha256
        )

    @property
    def is_open(self) -> bool:
        """Whether no token is set."""
        return self._token is None

    def is_token(self, text: str) -> bool:
        """Whether a text is the token, in a time that does not depend on the text."""
        return self._token is not None and hmac.compare_digest(_digest(text), self._token)

    def principal(self, request: Request) -> Principal:
        """The sender of a request."""
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        has_token = scheme.lower() == "bearer" and self.is_token(shown.strip())
        cookie = request.cookies.get(self._cookie_name(request), "")
        return Principal(self.session_of(cookie), has_token)

    def is_authorized(self, principal: Principal) -> bool:
        """Whether a sender may use the gateway."""
        return self.is_open or principal.has_token or principal.session is not None

    def check(self, request: Request) -> None:
        """Raise HTTPException for a request that is refused regardless of its sender."""
        if is_from_other_site(request.method, request.headers, self._public_url):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "This request comes from another web site. Open the gateway's own page.",
            )
        if request.scope["path"] in MACHINE_PATHS:
            return
        host = Host.of(request.headers)
        if host is None:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "The header Host is malformed.")
        # Without a token, nothing else stops a web site from pointing its own name to 127.0.0.1 and
        # reading the responses (DNS rebinding).
        if self.is_open and not is_loopback(host.name):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "Without a token, the gateway can only be reached as localhost or 127.0.0.1. Set "
                "BATCHFLOW_API_TOKEN to use another name.",
            )

    def session_of(self, cookie: str) -> str | None:
        """The id of the session; None if the cookie is not valid or the session has ended."""
        try:
            return self._cookies.unsign(cookie, max_age=SESSION_S).decode()
        except BadSignature:
            return None

    def csrf_token(self, session: str) -> str:
        """The token in the forms of a session's pages."""
        return self._csrf_tokens.get_signature(session).decode()

    def is_csrf_token(self, session: str, token: str) -> bool:
        """Whether a form's token belongs to this session."""
        return self._csrf_tokens.verify_signature(session, token)

    def set_session_cookie(
        self, request: Request, session: str | None, headers: MutableHeaders
    ) -> None:
        """Set the session cookie in a response with these headers, or delete it."""
        response = Response()
        response.set_cookie(
            self._cookie_name(request),
            self._cookies.sign(session).decode() if session else "",
            max_age=SESSION_S if session else 0,
            secure=self._is_secure(request),
            httponly=True,
            # Not strict: people follow links from the Flyte console. Changes need a CSRF token.
            samesite="lax",
        )
        headers.append("Set-Cookie", response.headers["Set-Cookie"])

    def _cookie_name(self, request: Request) -> str:
        # A browser sends a host's cookies to all of its ports, which may be other gateways'.
        host = Host.of(request.headers)
        port = f"-{host.port}" if host and host.port else ""
        # With the prefix, other hosts of the domain can't set it.
        return f"{'__Host-' if self._is_secure(request) else ''}batchflow{port}"

    def _is_secure(self, request: Request) -> bool:
        """Whether the browser uses TLS, with the gateway or with a proxy in front of it."""
        public = self._public_url or ""
        via_proxy = public.startswith("https:") and same_host(public, request.headers)
        return request.scope["scheme"] == "https" or via_proxy


#: For a route's parameter: ``access: AppAccess``.
AppAccess = Annotated[Access, from_app("access")]


def new_session() -> str:
    """The id of a new session, for a Principal."""
    return secrets.token_hex(16)


def principal_of(request: Request) -> Principal:
    """The sender of a request that passed the auth middleware."""
    principal: Principal = request.scope[PRINCIPAL_KEY]
    return principal


def csrf_token(request: Request) -> str:
    """The CSRF token for a form on a page; begins a session if there is none."""
    access: Access = request.app.state.access
    principal = principal_of(request)
    if not access.is_authorized(principal):
        # A session would authorize the sender.
        raise PermissionError("A form is only for senders that are authorized.")
    if principal.session is None:
        principal.session = new_session()
    return access.csrf_token(principal.session)


async def check_csrf(request: Request, access: AppAccess) -> None:
    """A dependency of every route that changes something: raises HTTPException for a browser's
    request that is not from a page of the gateway."""
    principal = principal_of(request)
    if principal.has_token or (access.is_open and not is_browser(request.headers)):
        return
    token = request.headers.get(CSRF_HEADER) or await _form_token(request)
    if principal.session is None or not access.is_csrf_token(principal.session, token):
        raise HTTPException(
            HTTPStatus.FORBIDDEN, "This page is out of date. Reload it and try again."
        )


async def _form_token(request: Request) -> str:
    if not request.headers.get("content-type", "").startswith(_FORMS):
        return ""
    shown = (await request.form()).get(CSRF_FIELD)
    return shown if isinstance(shown, str) else ""


def _digest(text: str) -> bytes:
    # Of equal length for every text, with any characters.
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
