"""Local executions, which bring their own stack if ``BATCHFLOW_REDIS_URL`` is not set."""

import atexit
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from flytekit import FlyteContextManager
from flytekit.models.security import Secret

from batchflow.errors import BatchflowError, MissingExtra

if TYPE_CHECKING:
    from batchflow.jobs import Credential
    from batchflow.stack.local_stack import LocalStack

logger = logging.getLogger(__name__)


def prepare(secret: Secret | None) -> "LocalStack | None":
    """Register the connectors and start the local stack if one is needed; returns the stack.

    ``secret`` is the secret that the task names. Raises CredentialMissing if the local workers
    would not find it, MissingExtra if the ``local`` extra is not installed.
    """
    try:
        # In the `local` extra.
        import batchflow_connector  # noqa: F401 - importing it registers the connectors

        import batchflow.stack.local_stack  # noqa: F401 - imported to check the extra
        from batchflow.jobs import Credential
    except ImportError as error:
        raise MissingExtra(
            f"A local execution needs packages that are not installed ({error}). "
            "Run: pip install 'flyte-batchflow[local]'"
        ) from error
    credential = (
        Credential(
            group=secret.group or None,
            key=secret.key,
            group_version=secret.group_version or None,
        )
        if secret
        else Credential()
    )
    if (
        getattr(signal.getsignal(signal.SIGINT), "__module__", None)
        == "flytekit.core.context_manager"
    ):
        cancel_on_signals(signal.SIGINT)
    if not _STACK and not os.environ.get("BATCHFLOW_REDIS_URL"):
        _STACK.append(_start_stack(credential))
    for stack in _STACK:
        stack.provide_key(credential)
    return _STACK[0] if _STACK else None


def cancel_on_signals(*signals: signal.Signals) -> None:
    """Cancel the jobs of this process and exit on these signals.

    It replaces flytekit's handler, which calls ``asyncio.run`` inside a running loop: that fails,
    and the batch would continue. Outside the main thread, where no handler can be set, it does
    nothing.
    """
    if threading.current_thread() is threading.main_thread():
        for number in signals:
            signal.signal(number, _cancel_and_exit)


def _cancel_and_exit(number: int, frame: FrameType | None) -> NoReturn:
    # In a thread of its own, which has no running loop.
    thread = threading.Thread(target=_cancel, args=(number, frame))
    thread.start()
    thread.join()
    sys.exit(1)


def _cancel(number: int, frame: FrameType | None) -> None:
    for handler in FlyteContextManager.signal_handlers:
        try:
            handler(number, frame)
        except BatchflowError as error:
            logger.warning("Could not cancel a job: %s", error)


def stop() -> None:
    """Stop the local stack now rather than at exit, if there is one."""
    while _STACK:
        _STACK.pop().stop()


#: The local stack of this process, once it runs.
_STACK: "list[LocalStack]" = []


def _start_stack(credential: "Credential") -> "LocalStack":
    from batchflow.stack.local_stack import start_local_stack

    stack = start_local_stack(credential)
    atexit.register(stack.stop)
    print(  # noqa: T201 - a notice for the user
        f"Batchflow: BATCHFLOW_REDIS_URL is not set, so this run starts its own stack "
        f"({stack.description}) and stops it when it ends.",
        file=sys.stderr,
    )
    if stack.emulated:
        print(  # noqa: T201 - as above
            "Batchflow: the environment has no OpenAI API key, so an emulator replaces OpenAI: "
            "nothing is billed, and the answers are invented.",
            file=sys.stderr,
        )
    return stack
