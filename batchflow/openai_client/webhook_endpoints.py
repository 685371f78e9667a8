"""OpenAI's API for managing webhook endpoints, as ``openai.resources.webhooks`` has it.

An endpoint belongs to the project of the API key. Its signing secret is in the answers that create
an endpoint and rotate its secret, and nowhere else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from urllib.parse import urlsplit

import openai
from pydantic import SecretStr

from batchflow.errors import CredentialRefused, InvalidInput, OpenAIRefused, OpenAIUnavailable
from batchflow.hosts import is_loopback
from batchflow.jobs import Credential, is_openai_id
from batchflow.openai_client.api import PAGE, client_of, translated
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH, BatchEvent

_MAX_URL_CHARS = 2_048
#: Endpoints of one project that are looked at, at most.
_MOST = 1_000
#: How a server answers that speaks OpenAI's API but for this part.
_NO_SUCH_API = frozenset({404, 405, 501})


@dataclass(frozen=True)
class Endpoint:
    """Where OpenAI delivers events, and which."""

    id: str
    name: str
    url: str
    event_types: tuple[str, ...]
    created_at: datetime
    #: Only when it was made just now.
    secret: SecretStr | None

    @property
    def lacks(self) -> tuple[str, ...]:
        """The batch events that are not delivered."""
        return tuple(event for event in BATCH_EVENTS if event not in self.event_types)


class WebhooksApi:
    """The endpoints of one credential's project."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def list(self) -> list[Endpoint]:
        """GET /v1/webhook_endpoints, newest first."""
        with self._all_errors():
            found = list(islice(self._client.webhooks.list(limit=PAGE), _MOST))
        return [_endpoint(each) for each in found]

    def create(self, *, name: str, url: str) -> Endpoint:
        """POST /v1/webhook_endpoints, for the four batch events."""
        with self._all_errors():
            made = self._client.webhooks.create(name=name, url=url, event_types=[*BATCH_EVENTS])
        return _endpoint(made, with_secret=True)

    def test(self, endpoint_id: str, event: BatchEvent) -> int:
        """POST /v1/webhook_endpoints/{id}/test: has OpenAI send a sample event, and returns the
        HTTP status that the receiver answered."""
        with self._all_errors(endpoint_id):
            result = self._client.webhooks.test(endpoint_id, event_type=event)
        status = getattr(result, "status_code", None)
        if not isinstance(status, int):
            raise _garbage("result of a test")
        return status

    def rotate_secret(self, endpoint_id: str, *, keep_old: bool) -> Endpoint:
        """POST /v1/webhook_endpoints/{id}/rotate_secret; ``keep_old`` has OpenAI sign with the old
        one, too, for 24 hours."""
        with self._all_errors(endpoint_id):
            rotated = self._client.webhooks.rotate_secret(
                endpoint_id, keep_old_secret_active_for_24_hours=keep_old
            )
        return _endpoint(rotated, with_secret=True)

    def delete(self, endpoint_id: str) -> None:
        """DELETE /v1/webhook_endpoints/{id}."""
        with self._all_errors(endpoint_id):
            self._client.webhooks.delete(endpoint_id)

    @contextmanager
    def _all_errors(self, endpoint_id: str | None = None) -> Iterator[None]:
        """Errors in the words of this API; raises InvalidInput when there is no such endpoint."""
        if endpoint_id is not None and not is_openai_id(endpoint_id):
            raise InvalidInput("That is no id of a webhook endpoint. It looks like we_68f0c1.")
        try:
            with translated():
                yield
        except CredentialRefused as error:
            raise CredentialRefused(
                f"{error} Managing webhooks takes a key that may do so in its project, which a "
                "restricted key may not."
            ) from error
        except OpenAIRefused as error:
            if error.status_code not in _NO_SUCH_API:
                raise
            if endpoint_id is None:
                raise OpenAIRefused(
                    f"{self._client.base_url} has no API for webhook endpoints. Without webhooks, "
                    "polling finds every batch's end.",
                    error.status_code,
                ) from error
            raise InvalidInput(
                f"The project of this API key has no webhook endpoint {endpoint_id}. "
                "`batchflow webhooks list` shows those that it has."
            ) from error
        except (AttributeError, TypeError) as error:
            # The SDK's paginator breaks on an answer that is no object.
            raise _garbage("list of webhook endpoints") from error


def connect_webhooks(credential: Credential, timeout_s: float) -> WebhooksApi:
    """The API for a credential; raises CredentialMissing."""
    return WebhooksApi(client_of(credential, timeout_s))


def check_url(url: str) -> None:
    """Raise InvalidInput unless OpenAI delivers to such a URL. On the loopback an emulator does."""
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
            f"That is no URL for webhooks. It looks like https://batchflow.example.com{WEBHOOK_PATH}."
        )
    if not secure:
        raise InvalidInput("OpenAI delivers webhooks to https:// URLs only.")


def _endpoint(answer: object, *, with_secret: bool = False) -> Endpoint:
    """What OpenAI answered; the SDK hands garbage through as it came."""
    found = vars(answer) if hasattr(answer, "__dict__") else {}
    try:
        return Endpoint(
            id=found["id"],
            name=found["name"],
            url=found["url"],
            event_types=tuple(found["event_types"]),
            created_at=datetime.fromtimestamp(found["created_at"], UTC),
            secret=SecretStr(found["signing_secret"]) if with_secret else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _garbage("webhook endpoint") from error


def _garbage(wanted: str) -> OpenAIUnavailable:
    return OpenAIUnavailable(
        f"OpenAI answered something that is no {wanted}.", outcome_unknown=True
    )
