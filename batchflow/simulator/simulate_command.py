"""The `simulate` command, with an option for every setting."""

import logging
import types
from collections.abc import Callable
from typing import Any, get_args, get_origin

import click
from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from batchflow.simulator.api_error import from_validation
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.faults.outages import Outage
from batchflow.simulator.server import serve

#: Settings whose option is repeatable and named in the singular.
_OPTION_NAMES = {"refused_keys": "refused-key", "outages": "outage"}
#: Settings that can be set by an environment variable, to keep them out of the process list.
_ENVIRONMENT = {"webhook_secret": "OPENAI_WEBHOOK_SECRET"}

_OUTAGE = TypeAdapter(Outage)


def _base_type(annotation: Any) -> Any:
    """Return the type of a setting's values, for example `float` for `float | None`."""
    if get_origin(annotation) is types.UnionType or not isinstance(annotation, type):
        return next(
            (_base_type(arg) for arg in get_args(annotation) if arg is not types.NoneType), str
        )
    return annotation


def _option(name: str, setting: FieldInfo) -> Callable[[Any], Any]:
    option = f"--{_OPTION_NAMES.get(name, name).replace('_', '-')}"
    text = (setting.description or "").replace("`", "")
    if isinstance(setting.default, tuple):
        more = "; repeatable" + (", as JSON" if name == "outages" else "")
        return click.option(option, name, multiple=True, help=text + more)
    if setting.annotation is bool:
        return click.option(
            f"{option}/--no-{option[2:]}",
            name,
            default=setting.default,
            show_default=True,
            help=text,
        )
    kind = _base_type(setting.annotation)
    return click.option(
        option,
        name,
        type=kind if kind in (int, float) else str,
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
        outages = tuple(_OUTAGE.validate_json(text) for text in values.pop("outages"))
        keys = tuple(SecretStr(key) for key in values.pop("refused_keys"))
        return SimulatorConfig.model_validate({**values, "outages": outages, "refused_keys": keys})
    except ValidationError as error:
        raise click.UsageError(from_validation(error).message) from None


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
    serve(host=host, port=port, config=config, on_ready=_print_ready)


def _print_ready(base_url: str) -> None:
    click.echo(f"OpenAI emulator ready: OPENAI_BASE_URL={base_url}")
