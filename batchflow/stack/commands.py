"""How each process of a stack is started."""

import shutil
import socket
import sys
from collections.abc import Sequence

from batchflow.errors import MissingExtra

_PYTHON = sys.executable


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def redis(port: int, folder: str, *, durable: bool = False) -> tuple[str, Sequence[str]]:
    """A Redis on loopback: the real one if it is installed, else fakeredis' server.

    ``durable`` keeps an append-only file in ``folder``, which only the real one can.
    """
    if server := shutil.which("redis-server"):
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        kept = "yes" if durable else "no"
        return "redis-server", [server, *options, "--save", "", "--appendonly", kept]
    if durable:
        raise MissingExtra(
            "Only a real Redis keeps its data between runs. Install redis-server, or leave "
            "--data-dir out."
        )
    return "fakeredis", [_PYTHON, "-m", "batchflow.stack.fake_redis", str(port)]


def worker(*, concurrency: int, log_level: str) -> Sequence[str]:
    """A Celery worker on all queues. Its steps wait for others most of the time: threads do."""
    options = ["--pool", "threads", "--concurrency", str(concurrency), "--loglevel", log_level]
    return [_PYTHON, "-m", "celery", "-A", "batchflow_workers", "worker", *options]


def beat(*, log_level: str) -> Sequence[str]:
    """Celery's scheduler."""
    options = ["--loglevel", log_level, "--pidfile", ""]
    return [_PYTHON, "-m", "celery", "-A", "batchflow_workers", "beat", *options]


def simulator(port: int, *, webhook_url: str = "") -> Sequence[str]:
    """OpenAI's emulator; its first line names the address. OPENAI_WEBHOOK_SECRET signs what it
    sends to ``webhook_url``."""
    webhooks = ["--webhook-url", webhook_url] if webhook_url else []
    return [_PYTHON, "-m", "batchflow.cli", "simulate", "--port", str(port), *webhooks]


def gateway(port: int) -> Sequence[str]:
    """The webhook receiver and the status page, on loopback."""
    return [_PYTHON, "-m", "batchflow.cli", "gateway", "--port", str(port)]


def connector(port: int, prometheus_port: int) -> Sequence[str]:
    """flytekit's gRPC server with our connectors."""
    serve = [_PYTHON, "-m", "flytekit.clis.sdk_in_container.pyflyte", "serve", "connector"]
    ports = ["--port", str(port), "--prometheus_port", str(prometheus_port)]
    return [*serve, *ports, "--modules", "batchflow_connector"]
