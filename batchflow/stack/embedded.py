"""The embedded stack: what a run needs when the environment names no Redis."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redis import Redis, RedisError

from batchflow.errors import CredentialMissing, InvalidSettings, StoreUnavailable
from batchflow.jobs import DEFAULT_SECRET_KEY, Credential, Job
from batchflow.openai_client.api import api_key
from batchflow.queue import make_app
from batchflow.settings import load_settings
from batchflow.stack import commands
from batchflow.stack.processes import Processes
from batchflow.store import connect, index
from batchflow.store import records as store_commands

logger = logging.getLogger(__name__)

#: The emulator takes any key.
_EMULATOR_KEY = "emulated"
#: Where flytekit's SecretsManager looks for a secret that is in no variable.
SECRETS_FOLDER_VARIABLE = "FLYTE_SECRETS_DEFAULT_DIR"
#: Flyte's convention for our default secret.
DEFAULT_KEY_VARIABLE = f"_FSEC_{DEFAULT_SECRET_KEY}"
#: Where people put their key; either becomes the default secret.
_KEY_VARIABLES = (DEFAULT_SECRET_KEY, "OPENAI_API_KEY")
#: Threads of the worker: one uploads, one downloads, two are left for polls and sweeps.
_CONCURRENCY = 4
#: The emulator's batches take seconds.
EMULATED_POLL_S = 0.5
#: How long OpenAI may take to hear of what was cancelled when the stack is about to stop.
_TOLD_S = 20.0
_RECENT_JOBS = 100
_READY_LINE = re.compile(r"OPENAI_BASE_URL=(\S+)")


@dataclass(frozen=True)
class Embedded:
    """A running stack; this process' environment points at it."""

    processes: Processes
    #: For people: what was started.
    description: str
    #: Whether OpenAI is the emulator.
    emulated: bool

    def provide(self, credential: Credential) -> None:
        """See to it that the workers find this key; raises CredentialMissing."""
        if self.emulated:
            give_emulator_key(credential, Path(os.environ[SECRETS_FOLDER_VARIABLE]))
        else:
            api_key(credential)

    def settle(self) -> None:
        """Wait until OpenAI has heard of what was cancelled; raises StoreUnavailable."""
        if self.processes.children:
            _wait_until_told()

    def stop(self) -> None:
        """Stop the stack, once OpenAI has heard of what was cancelled. Idempotent."""
        with contextlib.suppress(StoreUnavailable):
            self.settle()
        self.processes.stop()


def embed(credential: Credential) -> Embedded:
    """Start Redis and workers, and the emulator if there is no API key, for this process.

    ``credential`` is the one that is needed first. The environment of this process is changed to
    point at the stack; what it started ends with it.

    :raises InvalidSettings: when the environment names a server and no key for it.
    :raises CredentialMissing: when there is a key, and not this one.
    """
    emulated = not provide_key(credential)
    processes = Processes()
    try:
        return _start(processes, credential, emulated=emulated)
    except BaseException:
        processes.stop()
        raise


def provide_key(credential: Credential) -> bool:
    """Put the API key where workers look for it; False when there is none at all.

    A batch task names no secret, so the one that its file tasks name serves it, too.
    """
    key = next((os.environ[name] for name in _KEY_VARIABLES if os.environ.get(name)), None)
    if key and not os.environ.get(DEFAULT_KEY_VARIABLE):
        os.environ[DEFAULT_KEY_VARIABLE] = key
    if _found(credential) and not _found(Credential()):
        os.environ[DEFAULT_KEY_VARIABLE] = api_key(credential)
    if _found(Credential()) or os.environ.get(DEFAULT_KEY_VARIABLE):
        # A key that is there and can't be one must not lead to made-up answers.
        api_key(Credential())
        api_key(credential)
        return True
    if os.environ.get("OPENAI_BASE_URL"):
        raise InvalidSettings(
            "OPENAI_BASE_URL is set and there is no API key. Set OPENAI_API_KEY (any text will do "
            "for a server that asks for none), or unset OPENAI_BASE_URL to use the emulator."
        )
    return False


def start_emulator(processes: Processes, env: Mapping[str, str], *, webhook_url: str = "") -> str:
    """Start OpenAI's emulator, wait for it, and return its base URL."""
    command = commands.simulator(commands.free_port(), webhook_url=webhook_url)
    if not webhook_url:
        # It sends none, and the gateway's variable may hold several.
        env = {name: value for name, value in env.items() if name != "OPENAI_WEBHOOK_SECRET"}
    child = processes.start("emulator", command, env, foundation=True)
    processes.wait_until(child, lambda: bool(_READY_LINE.search(child.tail())))
    ready = _READY_LINE.search(child.tail())
    return ready[1] if ready else ""


def give_emulator_key(credential: Credential, secrets: Path) -> None:
    """Put a key that the emulator takes into the folder where the workers look for secrets."""
    parts = (credential.group, credential.group_version, credential.key)
    path = secrets.joinpath(*(part.lower() for part in parts if part))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_EMULATOR_KEY, "utf-8")


def answers(url: str) -> bool:
    """Whether a Redis is there."""
    with contextlib.suppress(RedisError), Redis.from_url(url) as client:
        return bool(client.ping())
    return False


def _start(processes: Processes, credential: Credential, *, emulated: bool) -> Embedded:
    port = commands.free_port()
    name, command = commands.redis(port, str(processes.folder))
    redis = processes.start(name, command, os.environ, foundation=True)
    url = f"redis://127.0.0.1:{port}/0"
    os.environ["BATCHFLOW_REDIS_URL"] = url
    stack = Embedded(processes, f"{name}, Celery worker and beat", emulated)
    if emulated:
        os.environ[SECRETS_FOLDER_VARIABLE] = str(processes.folder / "secrets")
        os.environ.setdefault("BATCHFLOW_POLL_INTERVAL_S", str(EMULATED_POLL_S))
        os.environ["OPENAI_BASE_URL"] = start_emulator(processes, os.environ)
        stack.provide(Credential())
        stack.provide(credential)
    load_settings.cache_clear()
    processes.wait_until(redis, lambda: answers(url))
    processes.start("beat", commands.beat(log_level="WARNING"), os.environ)
    worker = processes.start(
        "worker", commands.worker(concurrency=_CONCURRENCY, log_level="WARNING"), os.environ
    )
    app = make_app(load_settings())
    processes.wait_until(worker, lambda: bool(app.control.ping(timeout=0.3)))
    return stack


def _wait_until_told() -> None:
    """Wait until no cancelled batch is left that OpenAI doesn't know to be cancelled."""
    store = connect(load_settings())
    deadline = time.monotonic() + _TOLD_S
    while time.monotonic() < deadline:
        ids = store.run(index.recent(_RECENT_JOBS))
        jobs = store.run_all([store_commands.get(job_id) for job_id in ids])
        if not any(job and _to_be_told(job) for job in jobs):
            return
        time.sleep(0.1)
    logger.warning("OpenAI could not be told of everything that was cancelled.")


def _to_be_told(job: Job) -> bool:
    return job.cancel_requested and not job.terminal and job.openai_status != "cancelling"


def _found(credential: Credential) -> bool:
    try:
        return bool(api_key(credential))
    except CredentialMissing:
        return False
