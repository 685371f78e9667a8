"""The embedded stack: what a run needs when the environment names no Redis."""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from redis import Redis, RedisError

from batchflow.errors import CredentialMissing
from batchflow.jobs import DEFAULT_SECRET_KEY, Credential
from batchflow.openai_api import api_key
from batchflow.queue import make_app
from batchflow.settings import load_settings
from batchflow.stack import commands
from batchflow.stack.processes import Processes

#: The emulator takes any key.
_EMULATOR_KEY = "emulated"
#: Where flytekit's SecretsManager looks for a secret that is in no variable.
_SECRETS_FOLDER_VARIABLE = "FLYTE_SECRETS_DEFAULT_DIR"
#: Flyte's convention for our default secret.
_DEFAULT_KEY_VARIABLE = f"_FSEC_{DEFAULT_SECRET_KEY}"
#: Threads of the worker: one uploads, one downloads, two are left for polls and sweeps.
_CONCURRENCY = 4
#: The emulator's batches take seconds.
_EMULATED_POLL_S = 0.5
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
        if not self.emulated:
            api_key(credential)
            return
        parts = (credential.group, credential.group_version, credential.key)
        path = Path(os.environ[_SECRETS_FOLDER_VARIABLE]).joinpath(
            *(part.lower() for part in parts if part)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_EMULATOR_KEY, "utf-8")


def embed(credential: Credential) -> Embedded:
    """Start Redis and workers, and the emulator if there is no API key, for this process.

    ``credential`` is the one that is needed first. The environment of this process is changed to
    point at the stack; what it started ends with it.
    """
    processes = Processes()
    try:
        return _start(processes, credential)
    except BaseException:
        processes.stop()
        raise


def _start(processes: Processes, credential: Credential) -> Embedded:
    port = commands.free_port()
    name, command = commands.redis(port, str(processes.folder))
    redis = processes.start(name, command, os.environ)
    url = f"redis://127.0.0.1:{port}/0"
    os.environ["BATCHFLOW_REDIS_URL"] = url
    if key := os.environ.get("OPENAI_API_KEY"):
        os.environ.setdefault(_DEFAULT_KEY_VARIABLE, key)
    emulated = not (_found(credential) or _found(Credential()))
    if emulated:
        _start_emulator(processes)
    load_settings.cache_clear()
    with Redis.from_url(url) as client:
        processes.wait_until(redis, lambda: _answers(client))
    processes.start("beat", commands.beat(log_level="WARNING"), os.environ)
    worker = processes.start(
        "worker", commands.worker(concurrency=_CONCURRENCY, log_level="WARNING"), os.environ
    )
    app = make_app(load_settings())
    processes.wait_until(worker, lambda: bool(app.control.ping(timeout=0.3)))
    return Embedded(processes, f"{name}, Celery worker and beat", emulated)


def _start_emulator(processes: Processes) -> None:
    os.environ[_SECRETS_FOLDER_VARIABLE] = str(processes.folder / "secrets")
    os.environ.setdefault("BATCHFLOW_POLL_INTERVAL_S", str(_EMULATED_POLL_S))
    simulator = processes.start("emulator", commands.simulator(), os.environ)
    processes.wait_until(simulator, lambda: bool(_READY_LINE.search(simulator.tail())))
    ready = _READY_LINE.search(simulator.tail())
    if ready:
        os.environ["OPENAI_BASE_URL"] = ready[1]
    Embedded(processes, "", emulated=True).provide(Credential())


def _found(credential: Credential) -> bool:
    try:
        return bool(api_key(credential))
    except CredentialMissing:
        return False


def _answers(client: Redis) -> bool:
    with contextlib.suppress(RedisError):
        return bool(client.ping())
    return False
