"""``batchflow up``: all processes on this machine, in the foreground."""

import base64
import os
import secrets
from pathlib import Path

import click
from rich.console import Console

from batchflow.cli.supervisor import Supervisor, stopping_on_signals
from batchflow.errors import InvalidInput
from batchflow.jobs import Credential
from batchflow.openai_client.webhook_events import WEBHOOK_PATH
from batchflow.queue import SOFT_SHUTDOWN_S
from batchflow.settings import load_settings
from batchflow.stack import local_stack, process_commands
from batchflow.stack.processes import Processes, free_port, is_port_taken
from batchflow.store import connect, records

#: Threads of the worker.
_CONCURRENCY = 16
#: Time for the worker's own shutdown, after that of its steps.
_STOP_MARGIN_S = 10.0
_DEFAULT_GATEWAY_PORT = 8080
_WEBHOOK_SECRET_BYTES = 32
#: The secret in the old plugin's documentation, which the emulator's users may name.
_DOCUMENTED_CREDENTIAL = Credential(group="openai-api-key", key="api_key")


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="The connector's port.",
)
@click.option(
    "--gateway-port",
    type=click.IntRange(1, 65535),
    help=f"The gateway's port.  [default: {_DEFAULT_GATEWAY_PORT}, or a free one]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for Redis' data.  [default: in memory only]",
)
def up(port: int, gateway_port: int | None, data_dir: Path | None) -> None:
    """Run Redis, a Celery worker, beat, the connector and the gateway until Ctrl-C.

    If BATCHFLOW_REDIS_URL is set, that Redis is used. Without an API key in OPENAI_API_KEY, an
    emulator takes the place of OpenAI.
    """
    gateway_port = gateway_port or _default_gateway_port(port)
    _check_ports(port, gateway_port)
    if data_dir:
        _make_data_dir(data_dir)
    emulated = not local_stack.export_api_key(Credential())
    console = Console(highlight=False)
    processes = Processes(stop_s=SOFT_SHUTDOWN_S + _STOP_MARGIN_S)
    with stopping_on_signals(processes, console):
        console.print("Starting.")
        for line in _start(processes, port, gateway_port, data_dir, emulated=emulated):
            console.print(line, soft_wrap=True, markup=False)
        supervisor = Supervisor(processes, console)
        while True:
            supervisor.run_once()


def _default_gateway_port(connector_port: int) -> int:
    if connector_port == _DEFAULT_GATEWAY_PORT or is_port_taken(_DEFAULT_GATEWAY_PORT):
        return free_port()
    return _DEFAULT_GATEWAY_PORT


def _check_ports(port: int, gateway_port: int) -> None:
    for number, option in ((port, "--port"), (gateway_port, "--gateway-port")):
        if is_port_taken(number):
            raise InvalidInput(f"Port {number} is in use. Choose another one with {option}.")
    if port == gateway_port:
        raise InvalidInput("--port and --gateway-port must be different.")


def _make_data_dir(folder: Path) -> None:
    if load_settings().redis_url:
        raise InvalidInput(
            "--data-dir can't be used with BATCHFLOW_REDIS_URL: that Redis stores its own data. "
            "Leave out --data-dir, or unset BATCHFLOW_REDIS_URL."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder} can't be created: {error.strerror}.") from error


def _start(
    processes: Processes, port: int, gateway_port: int, data_dir: Path | None, *, emulated: bool
) -> list[str]:
    """Start all processes, each once those that it needs are ready; return lines to print."""
    redis_is_given = bool(load_settings().redis_url)
    lines = [_start_redis(processes, data_dir)]
    page = f"http://127.0.0.1:{gateway_port}"
    os.environ.setdefault("BATCHFLOW_PUBLIC_URL", page)
    if emulated:
        lines.append(_start_emulator(processes, f"{page}{WEBHOOK_PATH}"))
    else:
        lines.append(f"OpenAI      {os.environ.get('OPENAI_BASE_URL') or 'https://api.openai.com'}")
    # With REMAP_SIGTERM, Celery gives running steps a limited time to finish after SIGTERM.
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "REMAP_SIGTERM": "SIGQUIT"}
    processes.start("beat", process_commands.beat(log_level="WARNING"), env)
    worker = processes.start(
        "worker", process_commands.worker(concurrency=_CONCURRENCY, log_level="INFO"), env
    )
    metrics_port = free_port()
    connector = processes.start("connector", process_commands.connector(port, metrics_port), env)
    gateway = processes.start("gateway", process_commands.gateway(gateway_port), env)
    processes.wait_until(gateway, lambda: is_port_taken(gateway_port))
    processes.wait_until(connector, lambda: is_port_taken(port))
    local_stack.wait_for_worker(processes, worker)
    return [
        *lines,
        f"connector   grpc://127.0.0.1:{port}, metrics at http://127.0.0.1:{metrics_port}",
        f"gateway     {page} (status page)",
        "worker      all queues, with beat",
        "",
        *_instructions(redis_is_given=redis_is_given),
        "",
        "Ready. Press Ctrl-C to stop.",
    ]


def _start_redis(processes: Processes, data_dir: Path | None) -> str:
    if load_settings().redis_url:
        # Fail early if it is unavailable.
        connect(load_settings()).run(records.time())
        return "Redis       from BATCHFLOW_REDIS_URL"
    folder = data_dir.resolve() if data_dir else processes.folder
    program, url = local_stack.start_redis(processes, folder, durable=data_dir is not None)
    data = f"data in {folder}" if data_dir else "in memory: jobs are lost when it stops"
    return f"Redis       {url} ({program}, {data})"


def _start_emulator(processes: Processes, webhook_url: str) -> str:
    # Replaces the user's secrets: only the emulator sends webhooks to this gateway.
    key = base64.b64encode(secrets.token_bytes(_WEBHOOK_SECRET_BYTES)).decode()
    os.environ["OPENAI_WEBHOOK_SECRET"] = f"whsec_{key}"
    url = local_stack.start_emulator(processes, _DOCUMENTED_CREDENTIAL, webhook_url=webhook_url)
    return f"OpenAI      emulated at {url} (no API key is set, so nothing is charged)"


def _instructions(*, redis_is_given: bool) -> list[str]:
    if redis_is_given:
        # The URL may contain a password.
        return ["Other commands need the same BATCHFLOW_REDIS_URL."]
    return [
        "In another terminal:",
        f"  export BATCHFLOW_REDIS_URL={load_settings().require_redis_url()}",
        "  batchflow run requests.jsonl",
        "  batchflow list",
    ]
