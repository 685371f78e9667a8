"""The Celery app: its tasks, and what beat sends when."""

import logging
from typing import Any

from celery.concurrency.thread import TaskPool
from celery.signals import heartbeat_sent, worker_init, worker_shutdown

from batchflow.errors import InvalidSettings, StoreUnavailable
from batchflow.queue import STEP_LIMIT_S, Sender, Step, make_app, queue_name
from batchflow.settings import load_settings
from batchflow.store import connect, warn_of_eviction
from batchflow_workers.files.storage import clear_scratch
from batchflow_workers.heartbeat import Heartbeat
from batchflow_workers.polling import poll, sweep
from batchflow_workers.polling.scan import Mark
from batchflow_workers.runtime import Runtime
from batchflow_workers.steps import cancel, download, explain, refresh, submit, upload
from batchflow_workers.steps.runner import take_step
from batchflow_workers.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

try:
    _settings = load_settings()
    app = make_app(_settings)
    _store = connect(_settings)
except InvalidSettings as error:
    # Celery would show a traceback for what is an operator's slip.
    raise SystemExit(str(error)) from None

_runtime = Runtime(_settings, _store, Sender(app))


def _queues() -> list[str]:
    """What this worker takes messages from; an operator may change it with `celery control`."""
    begins = queue_name(_settings.key_prefix, "")
    return sorted(name.removeprefix(begins) for name in app.amqp.queues.consume_from)


_heartbeat = Heartbeat(_store, _queues)


@worker_init.connect
def _before_work(sender: Any, **_: object) -> None:
    if sender.pool_cls is TaskPool:
        sender.pool_cls = ThreadPool
    clear_scratch(STEP_LIMIT_S)
    try:
        warn_of_eviction(_runtime.store)
    except StoreUnavailable as error:
        logger.warning("%s", error)


@heartbeat_sent.connect
def _while_it_lives(sender: Any, **_: object) -> None:
    _heartbeat.beat(sender.eventer.hostname)


@worker_shutdown.connect
def _after_work(sender: Any, **_: object) -> None:
    _heartbeat.end(sender.hostname)


app.conf.beat_schedule = {
    "sweep": {
        "task": Step.SWEEP.value,
        "schedule": _settings.sweep_interval_s,
        # Ticks that nobody took in time are not worth keeping.
        "options": {"expires": max(10.0, 2 * _settings.sweep_interval_s)},
    }
}


@app.task(name=Step.SUBMIT)
def submit_step(job_id: str) -> None:
    take_step(_runtime, submit.SOURCE, job_id, submit.submit)


@app.task(name=Step.CANCEL)
def cancel_step(job_id: str) -> None:
    take_step(_runtime, cancel.SOURCE, job_id, cancel.cancel)


@app.task(name=Step.UPLOAD)
def upload_step(job_id: str) -> None:
    take_step(_runtime, upload.SOURCE, job_id, upload.upload)


@app.task(name=Step.DOWNLOAD)
def download_step(job_id: str) -> None:
    take_step(_runtime, download.SOURCE, job_id, download.download)


@app.task(name=Step.POLL)
def poll_step(ids: list[str], due_since_s: float, after: str | None = None, calls: int = 0) -> None:
    poll.poll(_runtime, ids, due_since_s, Mark(after, calls))


@app.task(name=Step.REFRESH)
def refresh_step(job_id: str) -> None:
    take_step(_runtime, refresh.SOURCE, job_id, refresh.refresh)


@app.task(name=Step.EXPLAIN)
def explain_step(job_id: str) -> None:
    explain.explain(_runtime, job_id)


@app.task(name=Step.SWEEP)
def sweep_step() -> None:
    sweep.sweep(_runtime)
