"""Sessions of browsers: a signed cookie instead of the token, and CSRF tokens for their forms.

The server keeps nothing. With a token, the signing key is derived from it: every gateway knows a
session, and a new token ends all of them. Without a token, the key lasts as long as the process.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from itsdangerous import BadSignature, URLSafeSerializer

from batchflow.settings import Settings

#: How long a browser stays logged in.
SESSION_S: Final = 7 * 86_400


@dataclass(frozen=True)
class Session:
    """The session of a browser."""

    id: str
    #: Epoch seconds.
    ends_s: int


class Sessions:
    """Creates and reads sessions."""

    def __init__(self, settings: Settings) -> None:
        token = settings.api_token
        key = token.get_secret_value().encode() if token else secrets.token_bytes(32)
        self._cookies = URLSafeSerializer(key, salt="batchflow session cookie")
        self._csrf_tokens = URLSafeSerializer(key, salt="batchflow csrf token")

    def begin(self, now_s: float) -> Session:
        """A new session."""
        return Session(secrets.token_hex(16), int(now_s) + SESSION_S)

    def cookie(self, session: Session) -> str:
        """The cookie of a session."""
        return str(self._cookies.dumps([session.id, session.ends_s]))

    def read(self, cookie: str, now_s: float) -> Session | None:
        """The session of a cookie; None if the cookie is not valid or the session has ended."""
        try:
            session = Session(*self._cookies.loads(cookie))
        except BadSignature:
            return None
        return session if now_s < session.ends_s else None

    def csrf_token(self, session: Session) -> str:
        """The token in the forms of a session's pages."""
        return str(self._csrf_tokens.dumps(session.id))

    def is_csrf_token(self, session: Session, token: str) -> bool:
        """Whether a form is from a page of this session."""
        try:
            return bool(self._csrf_tokens.loads(token) == session.id)
        except BadSignature:
            return False
