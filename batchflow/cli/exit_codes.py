"""What an error means to whoever typed a command: a message and an exit code."""

import click

from batchflow.cli.text import printable
from batchflow.errors import (
    BatchflowError,
    CredentialMissing,
    InvalidInput,
    InvalidSettings,
    MissingExtra,
)

JOB_FAILED = 1
WRONG_INPUT = 2
#: As shells have it for what Ctrl-C ended.
INTERRUPTED = 130

#: What the user has to put right; everything else may be nobody's fault.
_WRONG_INPUT = (InvalidInput, InvalidSettings, MissingExtra, CredentialMissing)


class JobFailed(BatchflowError):
    """Raised when a job ended otherwise than well; the message is the job's."""


class Interrupted(BatchflowError):
    """Raised when the user ended a command that was not done."""


def exit_code(error: BatchflowError) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, _WRONG_INPUT):
        return WRONG_INPUT
    return INTERRUPTED if isinstance(error, Interrupted) else JOB_FAILED


class Shown(click.ClickException):
    """An error as click prints it: ``Error: ...`` on stderr."""

    def __init__(self, error: BatchflowError) -> None:
        super().__init__(printable(str(error)))
        # click has the exit code as a class variable, and reads it from the instance.
        vars(self)["exit_code"] = exit_code(error)
