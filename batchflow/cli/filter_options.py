"""Which jobs a command is about: options with the names and the meaning that the API gives them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from pydantic import ValidationError

from batchflow.errors import InvalidInput, explain_invalid
from batchflow.overview.job_filter import JobFilter
from batchflow.states import JobKind, JobState

_OPTIONS = (
    click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice(list(map(str, JobState))),
        help="Only jobs in this state. Can be repeated.",
    ),
    click.option(
        "--kind",
        "kinds",
        multiple=True,
        type=click.Choice(list(map(str, JobKind))),
        help="Only jobs of this kind. Can be repeated.",
    ),
    click.option(
        "--organization", metavar="ID", default="", help="Only this OpenAI organization's jobs."
    ),
    click.option(
        "--execution",
        metavar="NAME",
        default="",
        help="Only jobs of this Flyte execution; also PROJECT/DOMAIN/NAME/NODE.",
    ),
    click.option(
        "--text",
        metavar="TEXT",
        default="",
        help="Only jobs with this in an id, the execution, model, credential, status or message.",
    ),
)


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options; it gets what they say as ``wanted``, a JobFilter."""

    @wraps(command)
    def with_filter(
        *,
        states: tuple[str, ...],
        kinds: tuple[str, ...],
        organization: str,
        execution: str,
        text: str,
        **others: Any,
    ) -> None:
        try:
            wanted = JobFilter(
                state=frozenset(map(JobState, states)),
                kind=frozenset(map(JobKind, kinds)),
                organization=organization,
                execution=execution,
                text=text,
            )
        except ValidationError as error:
            raise InvalidInput(f"The filter is not valid. {explain_invalid(error)}.") from None
        command(wanted=wanted, **others)

    for option in reversed(_OPTIONS):
        with_filter = option(with_filter)
    return with_filter
