"""The stack of a local execution, started when the environment names no Redis."""

import contextlib
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from redis import Redis, RedisError

from batchflow.errors import CredentialMissing, InvalidSettings, StoreUnavailable
from batchflow.jobs import DEFAULT_SECRET_KEY, Credential, Job
from batchflow.openai_client.api_key import api_key
from batchflow.queue import make_app
from batchflow.settings import load_settings
from batchflow.stack import process_commands
from batchflow.stack.processes import Child, Processes, free_port
from batchflow.store import connect, index, records

logger = logging.getLogger(__name__)

#: The emulator accepts any key.
_EMULATOR_KEY = "emulated"
#: The folder in which flytekit's SecretsManager looks for secrets that are not in the environment.
_SECRETS_FOLDER_VARIABLE = "FLYTE_SECRETS_DEFAULT_DIR"
#: Flyte's variable for the default secret.
_DEFAULT_KEY_VARIABLE = f"_FSEC_{DEFAULT_SECRET_KEY}"
#: Variables that users set; the first one that is set becomes the default secret.
_KEY_VARIABLES = (DEFAULT_SECRET_KEY, "OPENAI_API_KEY")
#: Threads of the worker: one uploads, one downloads, two remain for polls and sweeps.
_CONCURRENCY = 4
#: BATCHFLOW_POLL_INTERVAL_S with the emulator, whose batches take seconds.
_EMULATED_POLL_S = "0.5"
#: How long a stopping stack waits for cancellations to reach OpenAI.
_CANCEL_S = 20.0
_RECENT_JOBS = 100
_READY_LINE = re.compile(r"OPENAI_BASE_URL=(\S+)")


@dataclass(frozen=True)
class LocalStack:
    """A running stack, which this process' environment points to."""

    processes: Processes
    #: What was started, for messages.
    description: str
    #: Whether the emulator stands in for OpenAI.
    emulated: bool

    def provide_key(self, credential: Credential) -> None:
        """Make sure that the workers find this API key; raises CredentialMissing."""
        if self.emulated:
            _write_emulator_key(credential)
        else:
            api_key(credential)

    def finish_cancellations(self) -> None:
        """Wait until requested cancellations have reached OpenAI; raises StoreUnavailable."""
        if not self.processes.children:
            return
        store = connect(load_settings())
        deadline = time.monotonic() + _CANCEL_S
        while time.monotonic() < deadline:
            ids = store.run(index.recent(_RECENT_JOBS))
            jobs = store.run_all([records.get(job_id) for job_id in ids])
            if not any(job and _cancellation_pending(job) for job in jobs):
                return
            time.sleep(0.1)
        logger.warning("Some cancellations did not reach OpenAI within %g s.", _CANCEL_S)

    def stop(self) -> None:
        """Stop the stack once cancellations have reached OpenAI. Idempotent."""
        with contextlib.suppress(StoreUnavailable):
            self.finish_cancellations()
        self.processes.stop()


def start_local_stack(credential: Credential) -> LocalStack:
    """Start Redis and workers, and the emulator if there is no API key.

    Points the environment of this process to the stack. ``credential`` must be usable by the
    workers. The processes end with this one.

    :raises InvalidSettings: when OPENAI_BASE_URL is set and there is no API key.
    :raises CredentialMissing: when there is an API key, but not that of ``credential``.
    """
    emulated = not export_api_key(credential)
    processes = Processes()
    try:
        return _start(processes, credential, emulated=emulated)
    except BaseException:
        processes.stop()
        raise


def export_api_key(credential: Credential) -> bool:
    """Put the API key into the variable that workers read; False if there is none.

    A batch task names no secret, so the key of its file tasks becomes the default as well.
    """
    key = next((os.environ[name] for name in _KEY_VARIABLES if os.environ.get(name)), None)
    if key and not os.environ.get(_DEFAULT_KEY_VARIABLE):
        os.environ[_DEFAULT_KEY_VARIABLE] = key
    if _has_key(credential) and not _has_key(Credential()):
        os.environ[_DEFAULT_KEY_VARIABLE] = api_key(credential)
    if _has_key(Credential()) or os.environ.get(_DEFAULT_KEY_VARIABLE):
        # Raise for a malformed key, rather than fall back to the emulator's made-up answers.
        api_key(Credential())
        api_key(credential)
        return True
    if os.environ.get("OPENAI_BASE_URL"):
        raise InvalidSettings(
            "OPENAI_BASE_URL is set, but there is no API key. Set OPENAI_API_KEY (to any text if "
            "the server needs no key), or unset OPENAI_BASE_URL to use the emulator."
        )
    return False


def start_redis(processes: Processes, folder: Path, *, durable: bool = False) -> tuple[str, str]:
    """Start Redis, point the environment of this process to it, and return its program and URL."""
    port = free_port()
    program, command = process_commands.redis(port, str(folder), durable=durable)
    redis = processes.start("redis", command, os.environ, stop_last=True)
    url = f"redis://127.0.0.1:{port}/0"
    processes.wait_until(redis, lambda: _redis_responds(url))
    os.environ["BATCHFLOW_REDIS_URL"] = url
    load_settings.cache_clear()
    return program, url


def start_emulator(processes: Processes, credential: Credential, *, webhook_url: str = "") -> str:
    """Start the OpenAI emulator, point the environment of this process to it, and return its URL.

    The workers find a key for the default credential and for ``credential``.
    """
    command = process_commands.simulator(free_port(), webhook_url=webhook_url)
    env = dict(os.environ)
    if not webhook_url:
        # The emulator accepts a single secret, and the gateway's variable may contain several.
        env.pop("OPENAI_WEBHOOK_SECRET", None)
    child = processes.start("emulator", command, env, stop_last=True)
    processes.wait_until(child, lambda: bool(_READY_LINE.search(child.tail())))
    url: str = _READY_LINE.findall(child.tail())[0]
    os.environ["OPENAI_BASE_URL"] = url
    os.environ.setdefault("BATCHFLOW_POLL_INTERVAL_S", _EMULATED_POLL_S)
    os.environ[_SECRETS_FOLDER_VARIABLE] = str(processes.folder / "secrets")
    _write_emulator_key(Credential())
    _write_emulator_key(credential)
    load_settings.cache_clear()
    return url


def wait_for_worker(processes: Processes, worker: Child) -> None:
    """Wait until a Celery worker takes messages."""
    app = make_app(load_settings())
    processes.wait_until(worker, lambda: bool(app.control.ping(timeout=0.3)))


def _start(processes: Processes, credential: Credential, *, emulated: bool) -> LocalStack:
    redis, _ = start_redis(processes, processes.folder)
    if emulated:
        start_emulator(processes, credential)
    processes.start("beat", process_commands.beat(log_level="WARNING"), os.environ)
    worker = processes.start(
        "worker",
        process_commands.worker(concurrency=_CONCURRENCY, log_level="WARNING"),
        os.environ,
    )
    wait_for_worker(processes, worker)
    return LocalStack(processes, f"{redis}, a Celery worker and beat", emulated)


def _redis_responds(url: str) -> bool:
    with contextlib.suppress(RedisError), Redis.from_url(url) as client:
        return bool(client.ping())
    return False


def _write_emulator_key(credential: Credential) -> None:
    parts = (credential.group, credential.group_version, credential.key)
    folder = Path(os.environ[_SECRETS_FOLDER_VARIABLE])
    path = folder.joinpath(*(part.lower() for part in parts if part))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_EMULATOR_KEY, "utf-8")


def _cancellation_pending(job: Job) -> bool:
    return job.cancel_requested and not job.terminal and job.openai_status != "cancelling"


def _has_key(credential: Credential) -> bool:
    try:
        return bool(api_key(credential))
    except CredentialMissing:
        return False
