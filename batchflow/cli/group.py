"""A click group that imports a command when it is used, and shows errors as sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import click

from batchflow.cli.exit_codes import Shown
from batchflow.errors import BatchflowError, MissingExtra


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is: ``<module>:<name>``."""

    target: str
    #: The optional dependencies that it needs.
    extra: str
    help: str

    def load(self, name: str) -> click.Command:
        """Import it; raises MissingExtra when something that it needs is not installed."""
        module, _, attribute = self.target.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("batchflow."):
                raise
            raise MissingExtra(
                f"`batchflow {name}` needs more than is installed here ({error}). "
                f"Run: pip install 'flyte-batchflow[{self.extra}]'"
            ) from error
        return command


class LazyGroup(click.Group):
    """The commands by name; ``--help`` imports none of them."""

    def __init__(self, *, lazy_commands: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._lazy_commands = lazy_commands
        self.params.append(
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_show_version,
                help="Show the version and exit.",
            )
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy_commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._lazy_commands.get(cmd_name)
        return lazy.load(cmd_name) if lazy else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self._lazy_commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BatchflowError as error:
            raise Shown(error) from error


def _show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"batchflow {version('flyte-batchflow')}")
        ctx.exit()
