"""The API key stays in the workers' environment, in success and failure."""

import base64
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis

from tests.kit.emulator import Emulator
from tests.kit.flyte_client import Task
from tests.kit.flyte_tasks import TaskStarter, custom_ids
from tests.kit.processes import until
from tests.kit.stack import KEY_VARIABLES, Stack


@dataclass
class Seen:
    """Everything that leaves the workers: to Flyte, to Redis and into messages."""

    metas: list[bytes] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    published: list[bytes] = field(default_factory=list)
    commands: bytes = b""

    def note(self, task: Task) -> Task:
        """Record the metadata that Flyte keeps for a task."""
        self.metas.append(task.meta)
        return task

    def end(self, task: Task) -> Any:
        """Wait for a task's success, and record its answers."""
        run = task.follow()
        self.answers += [str(run.seen), str(run.answer)]
        assert run.answer.phase == "SUCCEEDED", run.seen
        return run.answer.result


@contextmanager
def listening_to_redis(stack: Stack, seen: Seen) -> Iterator[None]:
    """Record every command sent to Redis, including those of Lua scripts."""
    address = urlsplit(stack.redis_url)
    assert address.hostname is not None
    assert address.port is not None
    received = bytearray()
    with socket.create_connection((address.hostname, address.port)) as monitor:

        def receive() -> None:
            while chunk := monitor.recv(1 << 16):
                received.extend(chunk)

        monitor.sendall(b"MONITOR\r\n")
        thread = threading.Thread(target=receive, name="monitor")
        thread.start()
        try:
            until(lambda: received.startswith(b"+OK"), "MONITOR to start")
            yield
            # Commands arrive in order, so this one follows all others.
            stack.redis.echo("end-of-monitoring")
            until(lambda: b"end-of-monitoring" in received, "the last command")
        finally:
            monitor.shutdown(socket.SHUT_RDWR)
            thread.join()
    seen.commands = bytes(received)


def start_all(start: TaskStarter, result: dict[str, Any], file_id: str) -> list[Task]:
    """One task of each kind."""
    batch = start.batch(file_id, metadata={"at": start.node.node})
    return [start.upload(), batch, start.download(result)]


@pytest.fixture
def seen(stack: Stack, start: TaskStarter, emulator: Emulator) -> Seen:
    """What leaves the workers in success, during outages, and with a rejected key."""
    seen = Seen()
    with listening_to_redis(stack, seen):
        # Success; the worker starts late, so that messages can be read from their queues.
        stack.worker.stop()
        upload = seen.note(start.upload())
        early = seen.note(start.batch("file-none"))
        seen.published += queued(stack)
        assert len(seen.published) >= 2
        stack.worker.start()
        file_id = seen.end(upload)
        seen.answers.append(early.fails())
        result = seen.end(seen.note(start.batch(file_id)))
        download = seen.note(start.at("good").download(result))
        assert custom_ids(seen.end(download)["output_file"]["path"]) == ["r-0", "r-1", "r-2"]

        # Each kind of outage, then a rejected key.
        outages: dict[str, dict[str, Any]] = {
            "down": {"answer": "status", "status": 503},
            "garbage": {"answer": "garbage", "operations": ["files.create", "batches.*"]},
            "dropped": {"answer": "drop"},
            "limited": {"answer": "status", "status": 429, "retry_after_s": 0.5},
        }
        for name, outage in outages.items():
            emulator.outage(**outage)
            failing = start.at(name, org=f"{start.org}-{name}")
            tasks = [*map(seen.note, start_all(failing, result, file_id))]
            for task in tasks[:2] if name == "garbage" else tasks:
                await_answer(seen, task, "Waiting to call OpenAI again")
            emulator.end_outages()
            for task in tasks:
                task.delete()
        emulator.configure(refused_keys=[stack.api_key])
        refused = start.at("refused", org=f"{start.org}-refused")
        tasks = [*map(seen.note, start_all(refused, result, file_id))]
        for task in tasks:
            await_answer(seen, task, "rejected the API key")
        emulator.configure(refused_keys=[])
        seen.end(tasks[0])
        for task in tasks:
            task.delete()
    return seen


def await_answer(seen: Seen, task: Task, text: str) -> None:
    """Wait until a task's answer contains this text, and record the answer."""
    answer = task.until(
        lambda answer: text in answer.message or text in str(answer.custom_info), text
    )
    seen.answers.append(str(answer))


def queued(stack: Stack) -> list[bytes]:
    """The messages in Celery's queues."""
    with Redis.from_url(stack.redis_url) as redis:
        names = [f"{stack.key_prefix}.{queue}" for queue in ("submit", "poll", "files")]
        return [bytes(message) for name in names for message in redis.lrange(name, 0, -1)]


def everything_in_redis(url: str) -> bytes:
    """All keys and values, of every type."""
    found = []
    with Redis.from_url(url) as redis:
        for key in redis.scan_iter(count=1_000):
            found.append(key)
            match redis.type(key):
                case b"string":
                    found.append(redis.get(key) or b"")
                case b"hash":
                    found += [part for pair in redis.hgetall(key).items() for part in pair]
                case b"list":
                    found += redis.lrange(key, 0, -1)
                case b"set":
                    found += redis.smembers(key)
                case b"zset":
                    found += redis.zrange(key, 0, -1)
                case b"stream":
                    found.append(repr(redis.xrange(key)).encode())
                case b"none":  # has expired since
                    pass
                case other:
                    pytest.fail(f"{key!r} has the unexpected type {other!r}")
    return b"\n".join(found)


def test_the_key_is_nowhere_else(stack: Stack, seen: Seen) -> None:
    key = stack.api_key.encode()
    traces = [key, key[10:], key[:18], *_encoded(key)]
    places = {
        "resource metas": b"\n".join(seen.metas),
        "answers to Flyte": "\n".join(seen.answers).encode(),
        "queued messages": b"\n".join(seen.published),
        "commands to Redis": seen.commands,
        "Redis": everything_in_redis(stack.redis_url),
        **{str(path): path.read_bytes() for path in files_under(stack.folder)},
    }
    # The places have content, or the search would prove nothing.
    assert b"batchflow.upload" in places["queued messages"]
    assert b'"HSET"' in places["commands to Redis"]
    assert b"api_key" in places["Redis"]
    logs = {process.name: process.log_path.read_bytes() for process in stack.processes}
    for name in ("worker", "beat", "connector"):
        assert b"DEBUG" in logs[name], name
    for place, content in places.items():
        for trace in traces:
            assert trace not in content, f"{place} has the API key, as {trace[:3]!r}..."


def _encoded(key: bytes) -> list[bytes]:
    """Encodings of the key: base64 at each of three offsets, and hex."""
    inner = [base64.b64encode(b"x" * offset + key)[4:-4] for offset in range(3)]
    return [*inner, key.hex().encode()]


def files_under(folder: Path) -> list[Path]:
    """All files: logs, blobs, temporary files of processes."""
    paths = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    return [path for path in paths if path.is_file()]


def test_only_workers_have_the_key_and_the_address_of_openai(stack: Stack) -> None:
    for process in stack.processes:
        given = psutil.Process(process.pid).environ()
        has_key = {name for name, value in given.items() if stack.api_key in value}
        if process.name == "worker":
            assert has_key == set(KEY_VARIABLES)
        else:
            assert not has_key
            found = {name for name in given if name.startswith(("OPENAI_", "_FSEC_"))}
            assert found == ({"OPENAI_WEBHOOK_SECRET"} if process.name == "gateway" else set())
