"""Local executions: with no ``BATCHFLOW_REDIS_URL`` they bring their own stack."""

import atexit
import os
import sys
from typing import TYPE_CHECKING

from flytekit.models.security import Secret

from batchflow.errors import MissingExtra

if TYPE_CHECKING:
    from batchflow.jobs import Credential
    from batchflow.stack.embedded import Embedded


def prepare(secret: Secret | None) -> None:
    """Make a task runnable in this process: connectors registered, Redis and workers there.

    ``secret`` is what the task names, if it names one; raises CredentialMissing when this run
    brings its own workers and they could not find it.
    """
    try:
        # Only a local execution needs these, and what they need is in the `local` extra.
        import batchflow_connector  # noqa: F401 - importing it registers the connectors

        import batchflow.stack.embedded  # noqa: F401 - to see whether it can be imported
        from batchflow.jobs import Credential
    except ImportError as error:
        raise MissingExtra(
            f"A local execution needs more than is installed here ({error}). "
            "Run: pip install 'flyte-batchflow[local]'"
        ) from error
    credential = (
        Credential(group=secret.group, key=secret.key, group_version=secret.group_version)
        if secret
        else Credential()
    )
    if not _STACK and not os.environ.get("BATCHFLOW_REDIS_URL"):
        _STACK.append(_embed(credential))
    for stack in _STACK:
        stack.provide(credential)


#: The stack of this process, once it is started.
_STACK: "list[Embedded]" = []


def _embed(credential: "Credential") -> "Embedded":
    from batchflow.stack.embedded import embed

    stack = embed(credential)
    atexit.register(stack.processes.stop)
    print(  # noqa: T201 - one line for the person who runs it
        f"Batchflow: no BATCHFLOW_REDIS_URL, so this run brings its own stack "
        f"({stack.description}) and stops it at its end.",
        file=sys.stderr,
    )
    if stack.emulated:
        print(  # noqa: T201 - as above
            "Batchflow: no OpenAI API key in the environment, so OpenAI is an emulator: "
            "nothing is paid, and the answers are made up.",
            file=sys.stderr,
        )
    return stack
