"""The Celery app: its tasks, its thread pool, and the beat schedule."""

import logging
import os
from typing import Any, NoReturn

from celery.concurrency.thread import TaskPool
from celery.signals import heartbeat_sent, worker_init, worker_shutdown

from batchflow.errors import InvalidSettings, StoreUnavailable
from batchflow.queue import STEP_LIMIT_S, Sender, Step, make_app, queue_name
from batchflow.settings import load_settings
from batchflow.store import connect, warn_of_eviction
from batchflow_workers.files.storage import clear_scratch
from batchflow_workers.heartbeat import Heartbeat
from batchflow_workers.polling import poll, sweep
from batchflow_workers.polling.scan import Cursor
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps import cancel, download, explain, refresh, submit, upload
from batchflow_workers.steps.runner import StepFunction, run_step

logger = logging.getLogger(__name__)

try:
    _settings = load_settings()
    app = make_app(_settings)
    _store = connect(_settings)
except InvalidSettings as error:
    # Celery would show a traceback for an operator's mistake.
    raise SystemExit(str(error)) from None

_runtime = Runtime(_settings, _store, Sender(app))


def _queues() -> list[str]:
    """The queues of this worker now; an operator may change them with `celery control`."""
    prefix = queue_name(_settings.key_prefix, "")
    return sorted(name.removeprefix(prefix) for name in app.amqp.queues.consume_from)


_heartbeat = Heartbeat(_store, _queues)


class _ThreadPool(TaskPool):
    """Threads that end with their process when Celery ends a step."""

    def terminate_job(self, pid: int, signal: int | None = None) -> NoReturn:
        """Exit, because the time for a shutdown is over, or an operator revoked a step.

        Celery's own pool raises an error here and then waits for its threads. A step may be killed
        at any point, so nothing is lost.
        """
        logger.warning("Exiting with steps in threads; other workers continue them")
        logging.shutdown()
        os._exit(os.EX_OK)


@worker_init.connect
def _on_worker_init(sender: Any, **_: object) -> None:
    if sender.pool_cls is TaskPool:
        sender.pool_cls = _ThreadPool
    clear_scratch(STEP_LIMIT_S)
    try:
        warn_of_eviction(_runtime.store)
    except StoreUnavailable as error:
        logger.warning("%s", error)


@heartbeat_sent.connect
def _on_heartbeat(sender: Any, **_: object) -> None:
    _heartbeat.beat(sender.eventer.hostname)


@worker_shutdown.connect
def _on_worker_shutdown(sender: Any, **_: object) -> None:
    _heartbeat.stop(sender.hostname)


app.conf.beat_schedule = {
    "sweep": {
        "task": Step.SWEEP.value,
        "schedule": _settings.sweep_interval_s,
        # A tick that no worker took in time is of no use.
        "options": {"expires": max(10.0, 2 * _settings.sweep_interval_s)},
    }
}


def _add_task(step: Step, source: str, run: StepFunction) -> None:
    @app.task(name=step)
    def task(job_id: str) -> None:
        run_step(_runtime, source, job_id, run)


_add_task(Step.SUBMIT, submit.SOURCE, submit.submit)
_add_task(Step.CANCEL, cancel.SOURCE, cancel.cancel)
_add_task(Step.UPLOAD, upload.SOURCE, upload.upload)
_add_task(Step.DOWNLOAD, download.SOURCE, download.download)
_add_task(Step.REFRESH, refresh.SOURCE, refresh.refresh)


@app.task(name=Step.POLL)
def poll_step(ids: list[str], due_since_s: float, after: str | None = None, calls: int = 0) -> None:
    poll.poll(_runtime, ids, due_since_s, Cursor(after, calls))


@app.task(name=Step.EXPLAIN)
def explain_step(job_id: str) -> None:
    explain.explain(_runtime, job_id)


@app.task(name=Step.SWEEP)
def sweep_step() -> None:
    sweep.sweep(_runtime)
