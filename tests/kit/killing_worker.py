"""A process that runs steps in child processes, which it kills at given points.

It imports everything once and then forks, so a child costs milliseconds. Each line on its stdin is
a command in JSON, and each line on its stdout the reply. :class:`KillingWorker` is its client.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batchflow_workers.polling import poll, sweep
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps import cancel, download, submit, upload
from batchflow_workers.steps.runner import run_step
from celery import Celery

from batchflow.queue import Sender, Step, make_app
from batchflow.settings import load_settings
from batchflow.store import connect, index
from tests.kit.kill_points import Points

#: A child that takes longer hangs.
_STEP_S, _TAKE_OVER_S = 60.0, 300.0
#: The pause between two sweeps of all jobs.
_SWEEP_S = 0.5
_WORKER_OPTIONS = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class KillingWorker:
    """Starts the process and sends it commands."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as stderr:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.kit.killing_worker"],
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    def step(
        self, step: str, ids: Sequence[str], *, kill_at: str = "", prefix: str = ""
    ) -> tuple[int, list[str]]:
        """Run a step in a child; returns its exit status, -9 if it was killed, and its points."""
        return self._send(do="step", step=step, ids=list(ids), kill_at=kill_at, prefix=prefix)

    def suspend(self, step: str, ids: Sequence[str], *, stop_at: str, prefix: str) -> int:
        """Run a step in a child that suspends itself at a point; returns its pid."""
        return self._send(do="step", step=step, ids=list(ids), prefix=prefix, stop_at=stop_at)[0]

    def resume(self, pid: int) -> int:
        """Resume that child; returns its exit status."""
        return self._send(do="resume", pid=pid)[0]

    def celery(self, step: str, ids: Sequence[str], *, kill_at: str) -> int:
        """Send a step to a whole Celery worker, which is killed at a point; returns its status."""
        return self._send(do="celery", step=step, ids=list(ids), kill_at=kill_at)[0]

    def take_over(self, prefixes: Sequence[str]) -> None:
        """Sweep, and run the steps that the sweeps enqueue, until all jobs have ended."""
        status, _ = self._send(do="take over", prefixes=list(prefixes))
        assert status == 0, "the jobs have not ended; see the log of the killing worker"

    def _send(self, **command: Any) -> tuple[int, list[str]]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(command) + "\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        assert answer, "the killing worker has ended; see its log"
        status, points = json.loads(answer)
        return status, points

    def stop(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.communicate()


def _serve() -> None:
    _app()
    # The SDK imports these at their first use, which would be in each child.
    for name in ("batches", "files"):
        importlib.import_module(f"openai.resources.{name}")
    # Frozen objects are never collected, so that children share their memory.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "resume":
            os.kill(command["pid"], signal.SIGCONT)
            _answer(_status_of(command["pid"]), "")
            continue
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(command, writer)
        os.close(writer)
        status = _status_of(pid, _TAKE_OVER_S if command["do"] == "take over" else _STEP_S)
        with os.fdopen(reader) as pipe:
            # A suspended child has not written its points yet.
            _answer(status, "" if status > 0 else pipe.read())


def _answer(status: int, points: str) -> None:
    sys.stdout.write(json.dumps([status, json.loads(points or "[]")]) + "\n")
    sys.stdout.flush()


def _status_of(pid: int, limit_s: float = _STEP_S) -> int:
    """The exit status of a child, or its pid if it suspended itself."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended and os.WIFSTOPPED(status):
            return pid
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    # Not with SIGKILL, which is what the tests expect.
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    return -15


def _child(command: dict[str, Any], writer: int) -> None:
    # The answers have stdout; Celery would write its banner there.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        points = _carry_out(command)
        with contextlib.suppress(BrokenPipeError):  # a suspended child has no reader
            os.write(writer, json.dumps(points).encode())
    except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _carry_out(command: dict[str, Any]) -> list[str]:
    if command["do"] == "take over":
        _take_over([_runtime(prefix) for prefix in command["prefixes"]])
        return []
    runtime = _runtime(command.get("prefix", ""))
    points = Points(command.get("kill_at", ""), command.get("stop_at", ""))
    patch = pytest.MonkeyPatch()
    step, ids = Step(f"batchflow.{command['step']}"), command["ids"]
    args = {Step.POLL: [ids, time.time()], Step.SWEEP: []}.get(step, ids)
    if command["do"] == "step":
        points.watch(patch)
        _run(runtime, step, args)
    else:
        runtime.sender.send(step, *args)
        points.watch(patch)
        _app().worker_main(["worker", "-P", "solo", "--loglevel", "INFO", *_WORKER_OPTIONS])
    return points.passed


def _app() -> Celery:
    """The app. Importing it needs settings that only this process has."""
    app: Celery = importlib.import_module("batchflow_workers.app").app
    return app


def _runtime(prefix: str) -> Runtime:
    settings = load_settings()
    if prefix:
        settings = settings.model_copy(update={"key_prefix": prefix})
    return Runtime(settings, connect(settings), Sender(make_app(settings)))


def _run(runtime: Runtime, step: Step, args: Sequence[Any]) -> None:
    if step is Step.SWEEP:
        sweep.sweep(runtime)
    elif step is Step.POLL:
        poll.poll(runtime, *args)
    else:
        run_step(runtime, step.rpartition(".")[2], args[0], _WORK[step])


_WORK = {
    Step.SUBMIT: submit.submit,
    Step.CANCEL: cancel.cancel,
    Step.UPLOAD: upload.upload,
    Step.DOWNLOAD: download.download,
}


class _Collector(Sender):
    """Collects messages instead of sending them."""

    def __init__(self) -> None:
        self.sent: list[tuple[Step, tuple[Any, ...]]] = []

    def send(self, step: Step, *args: Any, expires_s: float | None = None) -> None:
        self.sent.append((step, args))


def _take_over(runtimes: list[Runtime]) -> None:
    """Do what Celery and beat do, in one process: sweep, then run what was enqueued."""
    while live := [runtime for runtime in runtimes if _live(runtime)]:
        for runtime in live:
            collector = _Collector()
            collecting = replace(runtime, sender=collector)
            _run(collecting, Step.SWEEP, [])
            for step, args in collector.sent:
                _run(collecting, step, args)
        time.sleep(_SWEEP_S)


def _live(runtime: Runtime) -> int:
    counts = runtime.store.run(index.counts())
    return sum(number for (_, state), number in counts.items() if not state.terminal)


if __name__ == "__main__":
    _serve()
