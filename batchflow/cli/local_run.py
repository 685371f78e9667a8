"""A batch run in this process, by executing the workflow of ``create_batch`` with flytekit."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flytekit.loggers
import rich
from flytekit import FlyteContextManager, Secret, Workflow
from flytekit.core.data_persistence import FileAccessProvider
from rich.console import Console

from batchflow import create_batch
from batchflow.cli.command_group import Interrupted, JobFailed
from batchflow.cli.progress import RunProgress, make_display, showing_progress
from batchflow.errors import BatchflowError, InvalidInput, StoreUnavailable
from batchflow.flyte1 import local
from batchflow.flyte1.results import BatchResult
from batchflow.jobs import DEFAULT_SECRET_KEY, Credential, Job
from batchflow.settings import load_settings
from batchflow.stack.local_stack import LocalStack
from batchflow.states import JobKind, JobState
from batchflow.store import JobStore, connect, records

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SucceededBatch:
    """A batch that succeeded."""

    job: Job
    #: The result files, in a temporary folder.
    output: Path | None
    errors: Path | None
    emulated: bool


@contextmanager
def succeeded_batch(
    path: Path, credential: Credential, config: dict[str, Any], console: Console
) -> Iterator[SucceededBatch]:
    """Run a file as a batch, with its progress on ``console``.

    The result files exist until the context is left.

    :raises InvalidInput: when the file is rejected.
    :raises JobFailed: when a job does not succeed; the message is the job's.
    :raises Interrupted: on Ctrl-C, once the batch is cancelled.
    """
    _silence_flytekit()
    # flytekit requires a group, and the default secret has none.
    secret = Secret(group=credential.group or "", key=credential.key or DEFAULT_SECRET_KEY)
    workflow = create_batch(
        "run", secret, credential.organization, config=config, is_json_iterator=False
    )
    with tempfile.TemporaryDirectory(prefix="batchflow-run-") as folder:
        run = _LocalRun(workflow, console)
        try:
            # Workers may read the temporary folder by default, but not the file's own folder.
            copy = shutil.copyfile(path, Path(folder) / "input.jsonl")
            with _flytekit_files_in(folder):
                yield run.execute(copy, secret)
        except SystemExit:
            # Raised by the signal handler, after it has cancelled the jobs.
            raise Interrupted(run.interruption_message()) from None
        finally:
            local.stop()


class _LocalRun:
    def __init__(self, workflow: Workflow, console: Console) -> None:
        self._tasks = [node.flyte_entity for node in workflow.nodes]
        self._workflow = workflow
        self._console = console
        self._stack: LocalStack | None = None
        self._store: JobStore | None = None

    def execute(self, path: Path, secret: Secret) -> SucceededBatch:
        with make_display(self._console) as display:
            # Closing the terminal (SIGHUP) cancels the jobs, too.
            local.cancel_on_signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            display.show(RunProgress("starting"))
            self._stack = local.prepare(secret)
            self._store = connect(load_settings())
            # Fail early, with a plain message, if Redis is unavailable.
            self._store.run(records.time())
            with showing_progress(self._read_progress, display):
                result = self._run_workflow(path)
        job = self._batch()
        if job is None:
            raise JobFailed("The batch succeeded, but Redis has lost its record.")
        output, errors = (
            Path(os.fspath(file)) if file else None
            for file in (result.output_file, result.error_file)
        )
        return SucceededBatch(job, output, errors, bool(self._stack and self._stack.emulated))

    def interruption_message(self) -> str:
        """Wait until the cancellation has reached OpenAI, and describe the outcome."""
        try:
            if self._stack:
                self._stack.finish_cancellations()
            job = self._batch()
        except StoreUnavailable as error:
            return f"Interrupted; the batch may still be running at OpenAI. {error}"
        if job is None:
            return "Interrupted; no batch is running at OpenAI."
        if job.state is JobState.SUCCEEDED:
            return f"Interrupted; the batch {job.batch_id} had already completed."
        if job.cancel_requested or job.state is JobState.CANCELLED:
            return f"Interrupted; cancelled the batch {job.batch_id or ''}".rstrip() + "."
        return f"Interrupted; the batch {job.batch_id} is {job.openai_status} at OpenAI."

    def _run_workflow(self, path: Path) -> BatchResult:
        try:
            result: BatchResult = self._workflow(jsonl_in=str(path))
        except Exception as error:
            # The job's own message is plainer than what flytekit makes of it.
            raise self._failure() or _batchflow_error(error) or error from error
        return result

    def _failure(self) -> BatchflowError | None:
        """The error of the job that failed, if a job did."""
        meta = self._latest_meta()
        if meta is None:
            return None
        if meta.refused:
            return InvalidInput(meta.refused)
        job = self._store.run(records.get(meta.job_id)) if self._store else None
        if job is None or not job.terminal or job.state is JobState.SUCCEEDED:
            return None
        message = job.message or f"The {job.kind} job {job.id} ended as {job.state}."
        if job.kind is JobKind.UPLOAD and job.state is JobState.FAILED:
            return InvalidInput(message)
        return JobFailed(message)

    def _read_progress(self) -> RunProgress | None:
        self._restart_ended_processes()
        meta = self._latest_meta()
        if meta is None or meta.refused or self._store is None:
            return None
        try:
            job = self._store.run(records.get(meta.job_id))
        except StoreUnavailable as error:
            return RunProgress("waiting", message=str(error))
        return RunProgress.of(job) if job else None

    def _restart_ended_processes(self) -> None:
        if self._stack is None:
            return
        for child in self._stack.processes.children:
            if not child.running:
                logger.warning("The %s ended unexpectedly and is restarted.", child.name)
                self._stack.processes.restart(child)

    def _latest_meta(self) -> Any:
        metas = (task.resource_meta for task in reversed(self._tasks))
        return next((meta for meta in metas if meta is not None), None)

    def _batch(self) -> Job | None:
        for task in self._tasks:
            meta = task.resource_meta
            job = self._store.run(records.get(meta.job_id)) if meta and self._store else None
            if job and job.kind is JobKind.BATCH:
                return job
        return None


@contextmanager
def _flytekit_files_in(folder: str) -> Iterator[None]:
    """Have flytekit copy files to a folder, to be deleted with it."""
    context = FlyteContextManager.current_context()
    access = FileAccessProvider(
        local_sandbox_dir=folder, raw_output_prefix=str(Path(folder) / "raw")
    )
    with FlyteContextManager.with_context(context.with_file_access(access)):
        yield


def _silence_flytekit() -> None:
    """Suppress flytekit's progress display, and tracebacks of errors that it also raises."""
    rich.reconfigure(stderr=True, force_terminal=False, force_interactive=True)
    flytekit.loggers.logger.addFilter(
        lambda record: not record.getMessage().startswith("Exception when executing")
    )


def _batchflow_error(error: BaseException | None) -> BatchflowError | None:
    """The Batchflow error that flytekit has wrapped, if there is one."""
    while error is not None:
        if isinstance(error, BatchflowError):
            return error
        error = error.__cause__ or error.__context__
    return None
