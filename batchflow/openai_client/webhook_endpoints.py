"""OpenAI's API for webhook endpoints.

An endpoint belongs to the project of the API key. OpenAI returns its signing secret only when the
endpoint is created or the secret is rotated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from urllib.parse import urlsplit

import openai
from pydantic import SecretStr

from batchflow.errors import CredentialRefused, InvalidInput, OpenAIRefused
from batchflow.hosts import is_loopback
from batchflow.jobs import Credential, is_openai_id
from batchflow.openai_client.client import PAGE, sdk_client
from batchflow.openai_client.error_classification import translated_errors
from batchflow.openai_client.parsing import malformed, malformed_pages
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH, BatchEvent

_MAX_URL_CHARS = 2_048
#: The limit on endpoints of one project that are listed.
_MAX_ENDPOINTS = 1_000
#: The status codes of a server without this part of the API.
_NO_SUCH_API = frozenset({404, 405, 501})


@dataclass(frozen=True)
class WebhookEndpoint:
    """A URL and the types of events that OpenAI delivers there."""

    id: str
    name: str
    url: str
    event_types: tuple[str, ...]
    created_at: datetime
    #: Set only by ``create`` and ``rotate_secret``.
    secret: SecretStr | None

    @property
    def missing_events(self) -> tuple[str, ...]:
        """The batch events that OpenAI does not deliver to it."""
        return tuple(event for event in BATCH_EVENTS if event not in self.event_types)


class WebhooksApi:
    """The webhook endpoints of one credential's project."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def list(self) -> list[WebhookEndpoint]:
        """GET /v1/webhook_endpoints, newest first."""
        with self._call():
            found = list(islice(self._client.webhooks.list(limit=PAGE), _MAX_ENDPOINTS))
        return [_endpoint(item) for item in found]

    def create(self, *, name: str, url: str) -> WebhookEndpoint:
        """POST /v1/webhook_endpoints, for the four batch events."""
        with self._call():
            created = self._client.webhooks.create(name=name, url=url, event_types=[*BATCH_EVENTS])
        return _endpoint(created, with_secret=True)

    def test(self, endpoint_id: str, event: BatchEvent) -> int:
        """POST /v1/webhook_endpoints/{id}/test: have OpenAI deliver a sample event.

        Returns the receiver's HTTP status.
        """
        with self._call(endpoint_id):
            result = self._client.webhooks.test(endpoint_id, event_type=event)
        status = getattr(result, "status_code", None)
        if not isinstance(status, int):
            raise malformed("test result")
        return status

    def rotate_secret(self, endpoint_id: str, *, keep_old: bool) -> WebhookEndpoint:
        """POST /v1/webhook_endpoints/{id}/rotate_secret.

        With ``keep_old``, OpenAI signs with both secrets for 24 hours.
        """
        with self._call(endpoint_id):
            rotated = self._client.webhooks.rotate_secret(
                endpoint_id, keep_old_secret_active_for_24_hours=keep_old
            )
        return _endpoint(rotated, with_secret=True)

    def delete(self, endpoint_id: str) -> None:
        """DELETE /v1/webhook_endpoints/{id}."""
        with self._call(endpoint_id):
            self._client.webhooks.delete(endpoint_id)

    @contextmanager
    def _call(self, endpoint_id: str | None = None) -> Iterator[None]:
        """Translate errors; raises InvalidInput when the endpoint does not exist."""
        if endpoint_id is not None and not is_openai_id(endpoint_id):
            raise InvalidInput("Not a valid webhook endpoint id. An id looks like we_68f0c1.")
        try:
            with translated_errors(), malformed_pages("webhook endpoints"):
                yield
        except CredentialRefused as error:
            raise CredentialRefused(
                f"{error} Managing webhooks needs a key that has this permission in its project; a "
                "restricted key does not have it."
            ) from error
        except OpenAIRefused as error:
            if error.status_code not in _NO_SUCH_API:
                raise
            if endpoint_id is None:
                raise OpenAIRefused(
                    f"{self._client.base_url} has no API for webhook endpoints. Batches still "
                    "complete without webhooks: polling finds their end.",
                    error.status_code,
                ) from error
            raise InvalidInput(
                f"The project of this API key has no webhook endpoint {endpoint_id}. "
                "`batchflow webhooks list` shows its endpoints."
            ) from error


def connect_webhooks(credential: Credential, timeout_s: float) -> WebhooksApi:
    """The API for a credential; raises CredentialMissing."""
    return WebhooksApi(sdk_client(credential, timeout_s))


def check_url(url: str) -> None:
    """Raise InvalidInput unless OpenAI, or an emulator on the loopback, can deliver to the URL."""
    try:
        parts = urlsplit(url)
        fine = bool(parts.hostname) and parts.port != 0 and parts.username is None
        secure = parts.scheme == "https" or (
            parts.scheme == "http" and is_loopback(parts.hostname or "")
        )
    except ValueError:
        fine = secure = False
    if not fine or not url.isprintable() or " " in url or len(url) > _MAX_URL_CHARS:
        raise InvalidInput(
            f"Not a valid webhook URL. It should look like https://batchflow.example.com{WEBHOOK_PATH}."
        )
    if not secure:
        raise InvalidInput("OpenAI delivers webhooks only to https:// URLs.")


def _endpoint(response: object, *, with_secret: bool = False) -> WebhookEndpoint:
    found = vars(response) if hasattr(response, "__dict__") else {}
    try:
        return WebhookEndpoint(
            id=found["id"],
            name=found["name"],
            url=found["url"],
            event_types=tuple(found["event_types"]),
            created_at=datetime.fromtimestamp(found["created_at"], UTC),
            secret=SecretStr(found["signing_secret"]) if with_secret else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise malformed("webhook endpoint") from error
