"""A click group that imports commands on first use, and turns errors into exit codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import click

from batchflow.errors import (
    BatchflowError,
    CredentialMissing,
    InvalidInput,
    InvalidSettings,
    MissingExtra,
)
from batchflow.overview.untrusted_text import printable

#: The last one is what shells return after Ctrl-C.
_FAILED, _INVALID, _INTERRUPTED = 1, 2, 130


class JobFailed(BatchflowError):
    """Raised when a job did not succeed; the message is the job's."""


class Interrupted(BatchflowError):
    """Raised when the user stopped a command before it was done."""


def exit_code(error: BatchflowError) -> int:
    """The exit code of a command that raised this error."""
    match error:
        case InvalidInput() | InvalidSettings() | MissingExtra() | CredentialMissing():
            return _INVALID
        case Interrupted():
            return _INTERRUPTED
    return _FAILED


@dataclass(frozen=True)
class LazyCommand:
    """A command that is not imported yet."""

    #: ``<module>:<name>``
    target: str
    #: The optional dependencies that it needs.
    extra: str
    help: str

    def load(self, name: str) -> click.Command:
        """Import the command; raises MissingExtra if a dependency is not installed."""
        try:
            command: click.Command = resolve_name(self.target)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("batchflow."):
                raise
            raise MissingExtra(
                f"`batchflow {name}` needs packages that are not installed ({error}). "
                f"Run: pip install 'flyte-batchflow[{self.extra}]'"
            ) from error
        return command


class LazyGroup(click.Group):
    """A group whose ``--help`` imports none of its commands."""

    def __init__(self, *, lazy_commands: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._lazy_commands = lazy_commands

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
            failure = click.ClickException(printable(str(error)))
            # click declares the exit code as a class variable, but reads it from the instance.
            vars(failure)["exit_code"] = exit_code(error)
            raise failure from error
