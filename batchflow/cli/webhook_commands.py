"""``batchflow webhooks``: manage the endpoints to which OpenAI sends batch events.

A signing secret is printed once, when it is created, and stored nowhere.
"""

import contextlib
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Group
from rich.text import Text

from batchflow.cli.options import credential_options, json_option
from batchflow.cli.output import echo, echo_json, grid, pairs
from batchflow.errors import BatchflowError, CredentialMissing, InvalidInput, InvalidSettings
from batchflow.jobs import Credential
from batchflow.openai_client.webhook_endpoints import (
    WebhookEndpoint,
    WebhooksApi,
    check_url,
    connect_webhooks,
)
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH, BatchEvent
from batchflow.overview.untrusted_text import printable
from batchflow.settings import load_settings
from batchflow.stack.local_stack import export_api_key

_MAX_NAME_CHARS = 256


class SampleRejected(BatchflowError):
    """Raised when the receiver did not answer a sample event with 2xx."""


@click.group()
def webhooks() -> None:
    """Manage the webhook endpoints through which OpenAI reports the end of batches.

    Without webhooks, the end of a batch is noticed at its next poll. An endpoint belongs to the
    project of an API key, so register one for each project. OPENAI_API_KEY is the default key.
    """


@webhooks.command(short_help="Register a URL, and show its signing secret.")
@click.argument("url")
@click.option("--name", default="batchflow", show_default=True, help="The endpoint's name.")
@credential_options
@json_option
def register(url: str, name: str, credential: Credential, as_json: bool) -> None:
    """Register a URL for the four batch events, and show the signing secret once.

    URL is the gateway's public address, such as https://batchflow.example.com/webhooks/openai.
    """
    check_url(url)
    if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInput(f"--name must have 1 to {_MAX_NAME_CHARS} printable characters.")
    if not urlsplit(url).path.endswith(WEBHOOK_PATH):
        _warn(f"The path of this URL is not {WEBHOOK_PATH}, where the gateway receives webhooks.")
    api = _connect(credential)
    if same := [endpoint.id for endpoint in api.list() if endpoint.url == url]:
        _warn(
            f"This URL is already registered as {', '.join(same)}, so OpenAI will send every event "
            f"more than once. To remove it: batchflow webhooks delete {same[0]}"
        )
    endpoint = api.create(name=name, url=url)
    advice = (
        "The secret is not shown again. Add it to OPENAI_WEBHOOK_SECRET of the gateway, which may "
        "be a comma-separated list. Then test the endpoint:\n"
        f"  batchflow webhooks test {endpoint.id}"
    )
    _show_secret(endpoint, advice, as_json=as_json)


@webhooks.command("list")
@credential_options
@json_option
def list_endpoints(credential: Credential, as_json: bool) -> None:
    """List the endpoints of the API key's project, newest first."""
    endpoints = _connect(credential).list()
    if as_json:
        echo_json({"endpoints": [_data(endpoint) for endpoint in endpoints]})
    elif endpoints:
        rows = (
            [printable(cell) for cell in (each.id, each.name, each.url, _events(each))]
            for each in endpoints
        )
        echo(grid(rows, header=("endpoint", "name", "url", "events")))
    else:
        click.echo("There are no webhook endpoints. Add one with `batchflow webhooks register`.")


@webhooks.command(short_help="Have OpenAI send a sample event.")
@click.argument("id_", metavar="ID")
@click.option(
    "--event",
    type=click.Choice(BATCH_EVENTS),
    default=BATCH_EVENTS[0],
    show_default=True,
    help="The type of the sample event.",
)
@credential_options
@json_option
def test(id_: str, event: BatchEvent, credential: Credential, as_json: bool) -> None:
    """Have OpenAI send a sample event, and show the receiver's response.

    The event names a batch that does not exist, so it changes no job. Exits with 1 if the receiver
    rejects it.
    """
    status = _connect(credential).test(id_, event)
    taken = 200 <= status < 300
    if as_json:
        echo_json({"id": id_, "event": event, "status_code": status, "taken": taken})
    if not taken:
        raise SampleRejected(f"The receiver answered with HTTP {status}. {_hint(status)}")
    if not as_json:
        click.echo(f"The receiver accepted the sample event of {id_} with HTTP {status}.")


@webhooks.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--keep-old", is_flag=True, help="Sign with the old secret as well for another 24 hours."
)
@credential_options
@json_option
def rotate(id_: str, keep_old: bool, credential: Credential, as_json: bool) -> None:
    """Replace an endpoint's signing secret, and show the new one once."""
    endpoint = _connect(credential).rotate_secret(id_, keep_old=keep_old)
    if keep_old:
        advice = (
            "The secret is not shown again. Add it to OPENAI_WEBHOOK_SECRET of the gateway, "
            "separated from the old one by a comma. The old secret is valid for another 24 hours; "
            "remove it afterwards."
        )
    else:
        advice = (
            "The secret is not shown again. Replace the old one with it in OPENAI_WEBHOOK_SECRET "
            "of the gateway. The old secret is no longer valid: until you replace it, the gateway "
            "rejects OpenAI's events, which OpenAI sends again for up to 72 hours."
        )
    _show_secret(endpoint, advice, as_json=as_json)


@webhooks.command()
@click.argument("id_", metavar="ID")
@credential_options
@json_option
def delete(id_: str, credential: Credential, as_json: bool) -> None:
    """Delete an endpoint, so that OpenAI sends no more events to it."""
    _connect(credential).delete(id_)
    if as_json:
        echo_json({"id": id_, "deleted": True})
    else:
        click.echo(f"Deleted {id_}.")


def _connect(credential: Credential) -> WebhooksApi:
    # The message about OPENAI_BASE_URL suggests the emulator, which cannot manage real endpoints.
    with contextlib.suppress(InvalidSettings):
        if export_api_key(credential):
            return connect_webhooks(credential, load_settings().openai_timeout_s)
    raise CredentialMissing("No OpenAI API key was found. Set OPENAI_API_KEY.")


def _show_secret(endpoint: WebhookEndpoint, advice: str, *, as_json: bool) -> None:
    secret = endpoint.secret.get_secret_value() if endpoint.secret else ""
    if as_json:
        echo_json({**_data(endpoint), "signing_secret": secret})
        return
    rows = [
        ("endpoint", endpoint.id),
        ("name", endpoint.name),
        ("url", endpoint.url),
        ("events", _events(endpoint)),
        ("secret", secret),
    ]
    echo(Group(pairs(rows), Text(), Text(advice)))


def _data(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """Return an endpoint for JSON, with OpenAI's names."""
    return {
        "id": endpoint.id,
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "created_at": endpoint.created_at.isoformat(),
    }


def _events(endpoint: WebhookEndpoint) -> str:
    """List an endpoint's events, abbreviating the four of batches."""
    if endpoint.missing_events:
        return ", ".join(endpoint.event_types)
    others = [event for event in endpoint.event_types if event not in BATCH_EVENTS]
    return ", ".join(["all batch events", *others])


def _hint(status: int) -> str:
    match status:
        case 400:
            return (
                "The gateway does so when it has another secret: check OPENAI_WEBHOOK_SECRET, or "
                "rotate the secret of this endpoint."
            )
        case 404 | 405:
            return f"The gateway receives webhooks at {WEBHOOK_PATH}: check the endpoint's URL."
        case 503:
            return "The gateway does so when Redis or Celery's broker is unavailable."
    return "The gateway does not send this status: check the proxy in front of it."


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)
