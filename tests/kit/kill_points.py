"""Named points inside the workers' steps, at which a process can kill or stop itself.

A point is before or after one command to Redis, request to OpenAI, message to the workers, or
piece of work on a file: ``before begin job``, ``after POST /v1/batches``; the second of its kind in
a step is ``before update job #2``.
"""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx2
import pytest
from batchflow_workers.files import storage, transfer_progress
from batchflow_workers.files.validating_reader import ValidatingReader
from batchflow_workers.steps import download

from batchflow.queue import Sender, Step
from batchflow.store import JobStore
from batchflow.store.command import Command

_IDS = re.compile(r"\b(file|batch)[-_][A-Za-z0-9]{8,}")
#: Sent by a thread whenever it is time, not by the step.
_RENEWAL = "renew"


class Points:
    """Records the points that a step passes, and kills or stops the process at one of them."""

    def __init__(self, kill_at: str = "", stop_at: str = "") -> None:
        self.passed: list[str] = []
        self._signals = {kill_at: signal.SIGKILL, stop_at: signal.SIGSTOP}
        self._counts: Counter[str] = Counter()

    @contextmanager
    def around(self, what: str) -> Iterator[None]:
        """A piece of work, with a point before it and one after it."""
        self._counts[what] += 1
        name = what if self._counts[what] == 1 else f"{what} #{self._counts[what]}"
        self._reach(f"before {name}")
        yield
        self._reach(f"after {name}")

    def _reach(self, point: str) -> None:
        self.passed.append(point)
        if point in self._signals:
            os.kill(os.getpid(), self._signals[point])

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Patch everything that a step does outside its own process."""
        self._watch_redis(patch)
        self._watch_openai(patch)
        self._watch_queue(patch)
        self._watch_files(patch)
        # How often a transfer writes its progress depends on the clock.
        patch.setattr(transfer_progress, "_INTERVAL_S", float("inf"))

    def _watch_redis(self, patch: pytest.MonkeyPatch) -> None:
        run, run_all = JobStore.run, JobStore.run_all

        def watched_run(store: JobStore, command: Command[Any]) -> Any:
            if command.name == _RENEWAL:
                return run(store, command)
            with self.around(_name(command)):
                return run(store, command)

        def watched_run_all(store: JobStore, commands: Sequence[Command[Any]]) -> list[Any]:
            if not commands:
                return run_all(store, commands)
            with self.around("all " + " + ".join(sorted({_name(c) for c in commands}))):
                return run_all(store, commands)

        patch.setattr(JobStore, "run", watched_run)
        patch.setattr(JobStore, "run_all", watched_run_all)

    def _watch_openai(self, patch: pytest.MonkeyPatch) -> None:
        send = httpx2.Client.send

        def watched(client: httpx2.Client, request: httpx2.Request, **options: Any) -> Any:
            path = _IDS.sub("{id}", request.url.path)
            with self.around(f"{request.method} {path}"):
                return send(client, request, **options)

        patch.setattr(httpx2.Client, "send", watched)

    def _watch_queue(self, patch: pytest.MonkeyPatch) -> None:
        send = Sender.send

        def watched(sender: Sender, step: Step, *args: Any, **options: Any) -> None:
            with self.around(f"send {step}"):
                send(sender, step, *args, **options)

        patch.setattr(Sender, "send", watched)

    def _watch_files(self, patch: pytest.MonkeyPatch) -> None:
        read, target, replace = ValidatingReader.read, storage.target, Path.replace

        def watched_read(file: ValidatingReader, size: int) -> bytes:
            with self.around("send a piece"):
                return read(file, size)

        @contextmanager
        def watched_target(uri: str, owner: str) -> Iterator[IO[bytes]]:
            with target(uri, owner) as file, self.around("write the blob"):
                yield file

        def watched_replace(path: Path, target: Path) -> Path:
            with self.around("publish the blob"):
                return replace(path, target)

        patch.setattr(ValidatingReader, "read", watched_read)
        patch.setattr(download, "target", watched_target)
        patch.setattr(Path, "replace", watched_replace)


def _name(command: Command[Any]) -> str:
    """The command and the kind of its key: ``HGETALL job``."""
    family = command.keys[0].partition(":")[0] if command.keys else ""
    return f"{command.name} {family}".rstrip()
