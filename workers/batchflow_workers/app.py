"""The Celery app: its tasks, and what beat sends when."""

import logging

from celery.signals import worker_init

from batchflow.errors import InvalidSettings, StoreUnavailable
from batchflow.queue import STEP_LIMIT_S, Sender, Step, make_app
from batchflow.settings import load_settings
from batchflow.store import connect, warn_of_eviction
from batchflow_workers import (
    cancel,
    download,
    explain,
    poll,
    refresh,
    submit,
    sweep,
    upload,
)
from batchflow_workers.blobs import clear_scratch
from batchflow_workers.runtime import Runtime
from batchflow_workers.step import take_step

logger = logging.getLogger(__name__)

try:
    _settings = load_settings()
    app = make_app(_settings)
    _store = connect(_settings)
except InvalidSettings as error:
    # Celery would show a traceback for what is an operator's slip.
    raise SystemExit(str(error)) from None

_runtime = Runtime(_settings, _store, Sender(app))


@worker_init.connect
def _before_work(**_: object) -> None:
    clear_scratch(STEP_LIMIT_S)
    try:
        warn_of_eviction(_runtime.store)
    except StoreUnavailable as error:
        logger.warning("%s", error)


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
def poll_step(ids: list[str]) -> None:
    poll.poll(_runtime, ids)


@app.task(name=Step.REFRESH)
def refresh_step(job_id: str) -> None:
    take_step(_runtime, refresh.SOURCE, job_id, refresh.refresh)


@app.task(name=Step.EXPLAIN)
def explain_step(job_id: str) -> None:
    explain.explain(_runtime, job_id)


@app.task(name=Step.SWEEP)
def sweep_step() -> None:
    sweep.sweep(_runtime)
