"""The command line of each process in a stack."""

import shutil
import sys
from collections.abc import Sequence

from batchflow.errors import MissingExtra

_PYTHON = sys.executable


def redis(port: int, folder: str, *, durable: bool = False) -> tuple[str, Sequence[str]]:
    """Return the name and the command of a Redis server on loopback.

    It is redis-server if that is installed, otherwise fakeredis' TCP server. ``durable`` keeps an
    append-only file in ``folder`` and raises MissingExtra without redis-server.
    """
    if server := shutil.which("redis-server"):
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        append_only = "yes" if durable else "no"
        return "redis-server", [server, *options, "--save", "", "--appendonly", append_only]
    if durable:
        raise MissingExtra(
            "--data-dir needs redis-server, which is not installed. Install it, or leave out "
            "--data-dir to keep jobs in memory."
        )
    return "fakeredis", [_PYTHON, "-m", "batchflow.stack.fake_redis", str(port)]


def worker(*, concurrency: int, log_level: str) -> Sequence[str]:
    """A Celery worker on all queues, with threads because its steps mostly wait for I/O."""
    options = ["--pool", "threads", "--concurrency", str(concurrency), "--loglevel", log_level]
    return [_PYTHON, "-m", "celery", "-A", "batchflow_workers", "worker", *options]


def beat(*, log_level: str) -> Sequence[str]:
    """Celery's scheduler."""
    options = ["--loglevel", log_level, "--pidfile", ""]
    return [_PYTHON, "-m", "celery", "-A", "batchflow_workers", "beat", *options]


def simulator(port: int, *, webhook_url: str = "") -> Sequence[str]:
    """The OpenAI emulator, which signs webhooks to ``webhook_url`` with OPENAI_WEBHOOK_SECRET."""
    webhooks = ["--webhook-url", webhook_url] if webhook_url else []
    return [_PYTHON, "-m", "batchflow.cli", "simulate", "--port", str(port), *webhooks]


def gateway(port: int) -> Sequence[str]:
    """The gateway, on loopback."""
    return [_PYTHON, "-m", "batchflow.cli", "gateway", "--port", str(port)]


def connector(port: int, prometheus_port: int) -> Sequence[str]:
    """flytekit's gRPC server with Batchflow's connectors."""
    serve = [_PYTHON, "-m", "flytekit.clis.sdk_in_container.pyflyte", "serve", "connector"]
    ports = ["--port", str(port), "--prometheus_port", str(prometheus_port)]
    return [*serve, *ports, "--modules", "batchflow_connector"]
