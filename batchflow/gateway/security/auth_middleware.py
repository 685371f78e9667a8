"""Authentication for all routes in one place, so that no route can miss it."""

from http import HTTPStatus
from urllib.parse import quote, urlencode

from fastapi import HTTPException, Request
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchflow.gateway.error_responses import error_response
from batchflow.gateway.security.access import OPEN_FOLDER, OPEN_PATHS, PRINCIPAL_KEY, Access


class AuthMiddleware:
    """ASGI middleware that refuses unauthorized requests, and gives routes the sender."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            self._access.check(request)
        except HTTPException as refusal:
            await error_response(refusal.status_code, refusal.detail)(scope, receive, send)
            return
        principal = self._access.principal(request)
        if not self._access.is_authorized(principal) and not _is_open(scope["path"]):
            await _ask_for_token(request)(scope, receive, send)
            return
        before = principal.session

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start" and principal.session != before:
                self._access.set_session_cookie(
                    request, principal.session, MutableHeaders(scope=message)
                )
            await send(message)

        scope[PRINCIPAL_KEY] = principal
        await self._app(scope, receive, send_with_session)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _ask_for_token(request: Request) -> Response:
    """The login page for people, 401 for programs."""
    if "text/html" not in request.headers.get("accept", ""):
        return error_response(
            HTTPStatus.UNAUTHORIZED,
            "This needs a token: Authorization: Bearer <BATCHFLOW_API_TOKEN>.",
            {"WWW-Authenticate": "Bearer"},
        )
    wanted = ""
    if request.method == "GET":
        query = request.scope["query_string"].decode("latin-1")
        wanted = quote(request.scope["path"]) + (f"?{query}" if query else "")
    next_ = f"?{urlencode({'next': wanted})}" if wanted not in ("", "/") else ""
    return RedirectResponse(f"/login{next_}", HTTPStatus.SEE_OTHER)
