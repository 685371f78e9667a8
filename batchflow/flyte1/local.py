"""Local executions: with no ``BATCHFLOW_REDIS_URL`` they bring their own stack."""

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
    """Make a task runnable in this process: connectors registered, Redis and workers there.

    Returns the stack that this process brings, if it brings one.
    ``secret`` is what the task names, if it names one; raises CredentialMissing when this run
    brings its own workers and they could not find it.
    """
    try:
        # Only a local execution needs these, and what they need is in the `local` extra.
        import batchflow_connector  # noqa: F401 - importing it registers the connectors

        import batchflow.stack.local_stack  # noqa: F401 - to see whether it can be imported
        from batchflow.jobs import Credential
    except ImportError as error:
        raise MissingExtra(
            f"A local execution needs more than is installed here ({error}). "
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
    """End this process on these signals, its jobs cancelled.

    flytekit's own handler calls ``asyncio.run`` where it interrupts a loop, which fails, and the
    batch would run on. Does nothing outside the main thread, which alone may set handlers.
    """
    if threading.current_thread() is threading.main_thread():
        for number in signals:
            signal.signal(number, _cancel_and_exit)


def _cancel_and_exit(number: int, frame: FrameType | None) -> NoReturn:
    # A thread has no running loop.
    thread = threading.Thread(target=_cancel, args=(number, frame))
    thread.start()
    thread.join()
    sys.exit(1)


def _cancel(number: int, frame: FrameType | None) -> None:
    for handler in FlyteContextManager.signal_handlers:
        try:
            handler(number, frame)
        except BatchflowError as error:
            logger.warning("A job could not be cancelled: %s", error)


def stop() -> None:
    """Stop the stack of this process, if it has one, rather than at the process' end."""
    while _STACK:
        _STACK.pop().stop()


#: The stack of this process, once it is started.
_STACK: "list[LocalStack]" = []


def _start_stack(credential: "Credential") -> "LocalStack":
    from batchflow.stack.local_stack import start_local_stack

    stack = start_local_stack(credential)
    atexit.register(stack.stop)
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
