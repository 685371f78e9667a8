"""Which API key a command uses: named as workers find it, never given on the command line."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from pydantic import ValidationError

from batchflow.errors import InvalidInput
from batchflow.jobs import DEFAULT_SECRET_KEY, Credential

_OPTIONS = (
    click.option("--organization", metavar="ID", help="The OpenAI organization."),
    click.option(
        "--secret",
        metavar="GROUP/KEY",
        help=f"The API key's secret.  [default: {DEFAULT_SECRET_KEY}]",
    ),
)


def with_credential(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options; it gets what they name as ``credential``."""

    @wraps(command)
    def with_options(*, secret: str | None, organization: str | None, **others: Any) -> None:
        command(credential=_credential(secret, organization), **others)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options


def _credential(secret: str | None, organization: str | None) -> Credential:
    group, slash, key = (secret or "").partition("/")
    if secret and not (group and slash and key):
        raise InvalidInput("--secret must be GROUP/KEY, such as openai-api-key/api_key.")
    try:
        return Credential(
            organization=organization, group=group or None, key=key or DEFAULT_SECRET_KEY
        )
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors()}
        what = "an organization" if "organization" in wrong else "a secret"
        raise InvalidInput(f"That can't be the name of {what}.") from None
