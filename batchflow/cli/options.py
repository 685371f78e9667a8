"""Options that several commands share."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from pydantic import ValidationError

from batchflow.errors import InvalidInput, explain_invalid, invalid_fields
from batchflow.jobs import DEFAULT_SECRET_KEY, Credential
from batchflow.overview.job_filter import JobFilter
from batchflow.states import JobKind, JobState

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_CREDENTIAL_OPTIONS = (
    click.option("--organization", metavar="ID", help="The OpenAI organization."),
    click.option(
        "--secret",
        metavar="GROUP/KEY",
        help=f"The name of the secret with the API key.  [default: {DEFAULT_SECRET_KEY}]",
    ),
)

#: An option for each field of a JobFilter.
_FILTER_OPTIONS = (
    click.option(
        "--state",
        multiple=True,
        type=click.Choice(list(map(str, JobState))),
        help="Only jobs in this state. Repeatable.",
    ),
    click.option(
        "--kind",
        multiple=True,
        type=click.Choice(list(map(str, JobKind))),
        help="Only jobs of this kind. Repeatable.",
    ),
    click.option(
        "--organization", metavar="ID", default="", help="Only jobs of this OpenAI organization."
    ),
    click.option(
        "--execution",
        metavar="NAME",
        default="",
        help="Only jobs of this Flyte execution; also PROJECT/DOMAIN/NAME[/NODE].",
    ),
    click.option(
        "--text",
        metavar="TEXT",
        default="",
        help="Only jobs with this text in an id, execution, model, credential, status or message.",
    ),
)


def credential_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add options that name an API key; the command receives them as ``credential``."""

    @wraps(command)
    def with_options(*, secret: str | None, organization: str | None, **others: Any) -> None:
        command(credential=_credential(secret, organization), **others)

    for option in reversed(_CREDENTIAL_OPTIONS):
        with_options = option(with_options)
    return with_options


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add options that select jobs; the command receives them as ``wanted``."""

    @wraps(command)
    def with_options(**values: Any) -> None:
        fields = {name: values.pop(name) for name in JobFilter.model_fields}
        try:
            wanted = JobFilter.model_validate(fields)
        except ValidationError as error:
            raise InvalidInput(f"The filter is not valid. {explain_invalid(error)}.") from None
        command(wanted=wanted, **values)

    for option in reversed(_FILTER_OPTIONS):
        with_options = option(with_options)
    return with_options


def _credential(secret: str | None, organization: str | None) -> Credential:
    group, slash, key = (secret or "").partition("/")
    if secret and not (group and slash and key):
        raise InvalidInput("--secret must be GROUP/KEY, for example openai-api-key/api_key.")
    try:
        return Credential(
            organization=organization, group=group or None, key=key or DEFAULT_SECRET_KEY
        )
    except ValidationError as error:
        if "organization" in invalid_fields(error):
            raise InvalidInput("--organization is not a valid organization id.") from None
        raise InvalidInput("--secret is not a valid name of a secret.") from None
