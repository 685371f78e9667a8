"""The `simulate` command, with an option for every setting."""

import logging
from collections.abc import Callable
from typing import Annotated, Any, get_args

import click
from pydantic import Json, Strict, ValidationError
from pydantic.fields import FieldInfo

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.faults.outages import Outage
from batchflow.simulator.server import serve

#: Settings whose option is repeatable and named in the singular.
_OPTION_NAMES = {"refused_keys": "refused-key", "outages": "outage"}
#: Settings that can be set by an environment variable, to keep them out of the process list.
_ENVIRONMENT = {"webhook_secret": "OPENAI_WEBHOOK_SECRET"}


class _Options(SimulatorConfig):
    """The settings as the options give them."""

    outages: Annotated[tuple[Json[Outage], ...], Strict(False)] = ()


def _option_name(setting: str) -> str:
    return f"--{_OPTION_NAMES.get(setting, setting).replace('_', '-')}"


def _option(name: str, setting: FieldInfo) -> Callable[[Any], Any]:
    option = _option_name(name)
    text = (setting.description or "").replace("`", "")
    if isinstance(setting.default, tuple):
        more = "; repeatable" + (", as JSON" if name == "outages" else "")
        return click.option(option, name, multiple=True, help=text + more)
    if setting.annotation is bool:
        option = f"{option}/--no-{option[2:]}"
    types = (setting.annotation, *get_args(setting.annotation))
    return click.option(
        option,
        name,
        type=next((kind for kind in (bool, int, float) if kind in types), str),
        default=setting.default,
        show_default=setting.default is not None,
        envvar=_ENVIRONMENT.get(name),
        show_envvar=True,
        help=text,
    )


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    for name, setting in reversed(SimulatorConfig.model_fields.items()):
        command = _option(name, setting)(command)
    return command


def _config_from(values: dict[str, Any]) -> SimulatorConfig:
    try:
        return _Options.model_validate(values)
    except ValidationError as error:
        # The message quotes no value, because it may be a secret.
        detail = error.errors(include_url=False)[0]
        problem = detail["msg"].removeprefix("Value error, ") + "."
        if not detail["loc"]:
            raise click.UsageError(problem) from None
        setting, *fields = detail["loc"]
        place = "".join(f"{field}: " for field in fields if isinstance(field, str))
        hint = f"'{_option_name(str(setting))}'"
        raise click.BadParameter(place + problem, param_hint=hint) from None


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8089,
    show_default=True,
    help="port to listen on; 0 selects a free port",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="least severe level to log to stderr",
)
@_with_settings
def simulate(host: str, port: int, log_level: str, **settings: Any) -> None:
    """Run a local stand-in for OpenAI's Files, Batch and webhook APIs.

    It prints one line when it is ready, and runs until it receives SIGINT or SIGTERM. All settings
    can be changed at runtime through /simulator/config.
    """
    config = _config_from(settings)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    serve(
        host=host,
        port=port,
        config=config,
        on_ready=lambda url: click.echo(f"OpenAI emulator ready: OPENAI_BASE_URL={url}"),
    )
