"""How each process of a stack is started."""

import shutil
import socket
import sys
from collections.abc import Sequence

_PYTHON = sys.executable


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis(port: int, folder: str) -> tuple[str, Sequence[str]]:
    """A Redis for one run: the real one if it is installed, else fakeredis' server."""
    if server := shutil.which("redis-server"):
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        return "redis-server", [server, *options, "--save", "", "--appendonly", "no"]
    return "fakeredis", [_PYTHON, "-m", "batchflow.stack.fake_redis", str(port)]


def worker(*, concurrency: int, log_level: str) -> Sequence[str]:
    """A Celery worker on all queues. Its steps wait for others most of the time: threads do."""
    options = ["--pool", "threads", "--concurrency", str(concurrency), "--loglevel", log_level]
    return [_PYTHON, "-m", "celery", "-A", "batchflow_workers", "worker", *options]


def beat(*, log_level: str) -> Sequence[str]:
    """Celery's scheduler."""
    options = ["--loglevel", log_level, "--pidfile", ""]
    return [_PYTHON, "-m", "celery", "-A", "batchflow_workers", "beat", *options]


def simulator() -> Sequence[str]:
    """OpenAI's emulator, on a free port that its first line names."""
    return [_PYTHON, "-m", "batchflow.cli", "simulate", "--port", "0"]


def connector(port: int, prometheus_port: int) -> Sequence[str]:
    """flytekit's gRPC server with our connectors."""
    serve = [_PYTHON, "-m", "flytekit.clis.sdk_in_container.pyflyte", "serve", "connector"]
    ports = ["--port", str(port), "--prometheus_port", str(prometheus_port)]
    return [*serve, *ports, "--modules", "batchflow_connector"]
