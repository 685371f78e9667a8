"""Sessions of browsers: a signed cookie instead of the token, and what proves a form to be ours.

Nothing is kept on the server. With a token the key is derived from it, so that any gateway knows a
session and a new token ends them all; without one the key lasts as long as the process.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from batchflow.settings import Settings

#: How long a browser stays logged in.
SESSION_S: Final = 7 * 86_400

_COOKIE = re.compile(
    r"(?P<id>[0-9a-f]{32})\.(?P<ends>[0-9]{1,12})\.(?P<mac>[0-9a-f]{64})", re.ASCII
)


@dataclass(frozen=True)
class Session:
    """A browser that was let in."""

    id: str
    #: Epoch seconds.
    ends_s: int


class Sessions:
    """Makes sessions and knows its own."""

    def __init__(self, settings: Settings) -> None:
        token = settings.api_token
        secret = token.get_secret_value().encode() if token else secrets.token_bytes(32)
        self._key = hmac.digest(secret, b"batchflow session", hashlib.sha256)

    def begin(self, now_s: float) -> Session:
        """A new session."""
        return Session(secrets.token_hex(16), int(now_s) + SESSION_S)

    def cookie(self, session: Session) -> str:
        """A session as the browser keeps it."""
        return f"{session.id}.{session.ends_s}.{self._mac('cookie', session)}"

    def read(self, cookie: str, now_s: float) -> Session | None:
        """The session of a cookie; None if it is not one of ours, or has ended."""
        match = _COOKIE.fullmatch(cookie)
        if match is None:
            return None
        session = Session(match["id"], int(match["ends"]))
        ours = hmac.compare_digest(match["mac"], self._mac("cookie", session))
        return session if ours and now_s < session.ends_s else None

    def csrf_token(self, session: Session) -> str:
        """What a form of this session's pages holds, and no other site can know."""
        return self._mac("form", session)

    def is_csrf_token(self, session: Session, token: str) -> bool:
        """Whether a form is from a page of this session."""
        return hmac.compare_digest(
            token.encode("utf-8", "replace"), self.csrf_token(session).encode()
        )

    def _mac(self, use: str, session: Session) -> str:
        return hmac.new(
            self._key, f"{use}.{session.id}.{session.ends_s}".encode(), hashlib.sha256
        ).hexdigest()
