"""``batchflow webhooks``: the endpoints at OpenAI to which it tells that batches have ended.

A signing secret is printed once, when it is made, and goes nowhere else.
"""

import contextlib
import json
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.text import Text

from batchflow.cli import job_views
from batchflow.cli.credential_options import with_credential
from batchflow.cli.text import printable
from batchflow.errors import BatchflowError, CredentialMissing, InvalidInput, InvalidSettings
from batchflow.jobs import Credential
from batchflow.openai_client.webhook_endpoints import (
    WebhookEndpoint,
    WebhooksApi,
    check_url,
    connect_webhooks,
)
from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH, BatchEvent
from batchflow.settings import load_settings
from batchflow.stack.local_stack import export_api_key

_MAX_NAME_CHARS = 256

_json_option = click.option("--json", "as_json", is_flag=True, help="Print data.")


class NotTaken(BatchflowError):
    """Raised when a sample event was answered with anything but 2xx."""


@click.group()
def webhooks() -> None:
    """Let OpenAI tell the gateway when batches end, instead of waiting for a poll.

    An endpoint belongs to the project of the API key: register one for each project. The key is
    found as workers find it; OPENAI_API_KEY stands in for the default one.
    """


@webhooks.command()
@click.argument("url")
@click.option("--name", default="batchflow", show_default=True, help="What OpenAI shows it as.")
@with_credential
@_json_option
def register(url: str, name: str, credential: Credential, as_json: bool) -> None:
    """Register the gateway's URL for the four batch events, and show the secret once.

    URL is where OpenAI reaches the gateway, such as https://batchflow.example.com/webhooks/openai.
    """
    check_url(url)
    if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInput(f"--name must have 1 to {_MAX_NAME_CHARS} characters.")
    if not urlsplit(url).path.endswith(WEBHOOK_PATH):
        _warn(f"The gateway takes webhooks at {WEBHOOK_PATH}, and this URL has another path.")
    api = _connect(credential)
    if same := [endpoint.id for endpoint in api.list() if endpoint.url == url]:
        _warn(
            f"This URL is registered already, as {', '.join(same)}: OpenAI will send every event "
            f"once more. `batchflow webhooks delete {same[0]}` ends that."
        )
    made = api.create(name=name, url=url)
    advice = (
        "This is the only time that the secret is shown. Put it into OPENAI_WEBHOOK_SECRET of the "
        "gateway; several secrets stand there with commas between them. When the gateway has it:\n"
        f"  batchflow webhooks test {made.id}"
    )
    _show_secret(made, advice, as_json=as_json)


@webhooks.command("list")
@with_credential
@_json_option
def list_endpoints(credential: Credential, as_json: bool) -> None:
    """List the endpoints of the API key's project, newest first."""
    endpoints = _connect(credential).list()
    if as_json:
        _print_json({"endpoints": [_data(endpoint) for endpoint in endpoints]})
        return
    if not endpoints:
        click.echo("There are no webhook endpoints. `batchflow webhooks register URL` makes one.")
        return
    header = [Text(name, style="dim") for name in ("endpoint", "name", "url", "events")]
    _print(job_views.aligned([header, *map(_row, endpoints)]))


@webhooks.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--event",
    type=click.Choice(BATCH_EVENTS),
    default=BATCH_EVENTS[0],
    show_default=True,
    help="What OpenAI says has happened.",
)
@with_credential
@_json_option
def test(id_: str, event: BatchEvent, credential: Credential, as_json: bool) -> None:
    """Have OpenAI send a sample event, and say what the receiver answered.

    The gateway takes it as one about a batch that isn't its own. Exits with 1 if it was not taken.
    """
    status = _connect(credential).test(id_, event)
    taken = 200 <= status < 300
    if as_json:
        _print_json({"id": id_, "event": event, "status_code": status, "taken": taken})
    if not taken:
        raise NotTaken(f"The receiver answered HTTP {status}. {_hint(status)}")
    if not as_json:
        click.echo(f"The receiver answered HTTP {status}: it takes {id_}'s events.")


@webhooks.command()
@click.argument("id_", metavar="ID")
@click.option("--keep-old", is_flag=True, help="OpenAI signs with the old one, too, for 24 hours.")
@with_credential
@_json_option
def rotate(id_: str, keep_old: bool, credential: Credential, as_json: bool) -> None:
    """Replace an endpoint's secret, and show the new one once."""
    rotated = _connect(credential).rotate_secret(id_, keep_old=keep_old)
    where = "This is the only time that the secret is shown. Put it into OPENAI_WEBHOOK_SECRET of "
    if keep_old:
        advice = (
            f"{where}the gateway, beside the old one and with a comma between them. The old one is "
            "good for 24 hours more; then take it out."
        )
    else:
        advice = (
            f"{where}the gateway in the place of the old one, which is good no more: until then "
            "the gateway refuses what OpenAI sends. OpenAI tries again for up to 72 hours."
        )
    _show_secret(rotated, advice, as_json=as_json)


@webhooks.command()
@click.argument("id_", metavar="ID")
@with_credential
@_json_option
def delete(id_: str, credential: Credential, as_json: bool) -> None:
    """Delete an endpoint: OpenAI sends nothing more to it."""
    _connect(credential).delete(id_)
    if as_json:
        _print_json({"id": id_, "deleted": True})
    else:
        click.echo(f"Deleted {id_}.")


def _connect(credential: Credential) -> WebhooksApi:
    # What it says of a server without a key is about emulators.
    with contextlib.suppress(InvalidSettings):
        if export_api_key(credential):
            return connect_webhooks(credential, load_settings().openai_timeout_s)
    raise CredentialMissing("There is no OpenAI API key here. Set OPENAI_API_KEY.")


def _show_secret(endpoint: WebhookEndpoint, advice: str, *, as_json: bool) -> None:
    secret = endpoint.secret.get_secret_value() if endpoint.secret else ""
    if as_json:
        _print_json({**_data(endpoint), "signing_secret": secret})
        return
    rows = [
        ("endpoint", endpoint.id),
        ("name", endpoint.name),
        ("url", endpoint.url),
        ("events", _events(endpoint)),
        ("secret", secret),
    ]
    _print(Text("\n\n").join([job_views.pairs(rows), Text(advice)]))


def _data(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """For programs, with OpenAI's names."""
    return {
        "id": endpoint.id,
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "created_at": endpoint.created_at.isoformat(),
    }


def _row(endpoint: WebhookEndpoint) -> list[Text]:
    cells = (endpoint.id, endpoint.name, endpoint.url, _events(endpoint))
    return [Text(printable(cell)) for cell in cells]


def _events(endpoint: WebhookEndpoint) -> str:
    """The events of an endpoint, the four of batches in three words."""
    if endpoint.missing_events:
        return ", ".join(endpoint.event_types)
    others = [event for event in endpoint.event_types if event not in BATCH_EVENTS]
    return ", ".join(["all of batches", *others])


def _hint(status: int) -> str:
    match status:
        case 400:
            return (
                "The gateway does that when it has another secret: look at OPENAI_WEBHOOK_SECRET, "
                "or rotate this endpoint's."
            )
        case 404 | 405:
            return f"The gateway takes webhooks at {WEBHOOK_PATH}: look at the endpoint's URL."
        case 503:
            return "The gateway does that when Celery's broker or Redis is away."
    return "The gateway itself doesn't do that: look at what stands before it."


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)


def _print(content: Text) -> None:
    Console(highlight=False).print(content, soft_wrap=True)


def _print_json(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, indent=2))
