"""One batch through the workflow that ``create_batch`` makes, executed by flytekit here."""

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
from batchflow.cli.exit_codes import Interrupted, JobFailed
from batchflow.cli.run_progress import Follower, Standing, make_display, standing
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
class Finished:
    """A batch that succeeded."""

    job: Job
    #: The two files, in a folder that goes away with the run.
    output: Path | None
    errors: Path | None
    emulated: bool


@contextmanager
def finished_batch(
    path: Path, credential: Credential, config: dict[str, Any], console: Console
) -> Iterator[Finished]:
    """Run the file and show the progress on ``console``.

    :raises InvalidInput: when the file was refused.
    :raises JobFailed: when a job ended otherwise than well; the message is the job's.
    :raises Interrupted: on Ctrl-C, once the batch is cancelled.
    """
    _quiet_flytekit()
    # Without a group it is the default secret, which flytekit wants to have a group.
    secret = Secret(group=credential.group or "", key=credential.key or DEFAULT_SECRET_KEY)
    workflow = create_batch(
        "run", secret, credential.organization, config=config, is_json_iterator=False
    )
    with tempfile.TemporaryDirectory(prefix="batchflow-run-") as folder:
        run = _Run(workflow, console)
        try:
            # Workers read from the temporary folder wherever they were started.
            copy = shutil.copyfile(path, Path(folder) / "input.jsonl")
            with _files_in(folder):
                yield run.execute(copy, secret)
        except SystemExit:
            # The handler of Ctrl-C has cancelled the jobs.
            raise Interrupted(run.interrupted()) from None
        finally:
            local.stop()


class _Run:
    def __init__(self, workflow: Workflow, console: Console) -> None:
        self._tasks = [node.flyte_entity for node in workflow.nodes]
        self._workflow = workflow
        self._console = console
        self._stack: LocalStack | None = None
        self._store: JobStore | None = None

    def execute(self, path: Path, secret: Secret) -> Finished:
        with make_display(self._console) as display:
            # A terminal that is closed is no different from Ctrl-C.
            local.cancel_on_signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            display.show(Standing("starting"))
            self._stack = local.prepare(secret)
            self._store = connect(load_settings())
            self._store.run(records.time())  # to say now, and not in a traceback, if it is away
            with Follower(self._look, display):
                result = self._result(path)
        job = self._job(JobKind.BATCH)
        if job is None:
            raise JobFailed("Redis lost the record of the batch; its files are not.")
        output, errors = (
            Path(os.fspath(file)) if file else None
            for file in (result.output_file, result.error_file)
        )
        return Finished(job, output, errors, bool(self._stack and self._stack.emulated))

    def interrupted(self) -> str:
        """What Ctrl-C came to. The jobs are cancelled; this sees to it that OpenAI hears of it."""
        try:
            if self._stack:
                self._stack.finish_cancellations()
            job = self._job(JobKind.BATCH)
        except StoreUnavailable as error:
            return f"Interrupted; the batch may run on at OpenAI. {error}"
        if job is None:
            return "Interrupted; nothing is running at OpenAI."
        if job.state is JobState.SUCCEEDED:
            return f"Interrupted. The batch {job.batch_id} was done already."
        if job.cancel_requested or job.state is JobState.CANCELLED:
            return f"Interrupted; cancelled the batch {job.batch_id or ''}".rstrip() + "."
        return f"Interrupted; the batch {job.batch_id} is {job.openai_status} at OpenAI."

    def _result(self, path: Path) -> BatchResult:
        try:
            result: BatchResult = self._workflow(jsonl_in=str(path))
        except Exception as error:
            # flytekit wraps what a task said in its own words; the job has the plain ones.
            raise self._failure() or _own(error) or error from error
        return result

    def _failure(self) -> BatchflowError | None:
        """Why the run failed, if it was a job that did."""
        meta = self._latest_meta()
        if meta is None:
            return None
        if meta.refused:
            return InvalidInput(meta.refused)
        job = self._store.run(records.get(meta.job_id)) if self._store else None
        if job is None or not job.terminal or job.state is JobState.SUCCEEDED:
            return None
        message = job.message or f"The {job.kind} job {job.id} has ended as {job.state}."
        if job.kind is JobKind.UPLOAD and job.state is JobState.FAILED:
            return InvalidInput(message)
        return JobFailed(message)

    def _look(self) -> Standing | None:
        self._revive()
        meta = self._latest_meta()
        if meta is None or meta.refused or self._store is None:
            return None
        try:
            job = self._store.run(records.get(meta.job_id))
        except StoreUnavailable as error:
            return Standing("waiting", message=str(error))
        return standing(job) if job else None

    def _revive(self) -> None:
        """A process of ours that dies is started again; what it had begun is taken up."""
        for child in self._stack.processes.children if self._stack else ():
            if self._stack and not child.running:
                logger.warning("The %s has ended and is started again.", child.name)
                self._stack.processes.restart(child)

    def _latest_meta(self) -> Any:
        metas = (task.resource_meta for task in reversed(self._tasks))
        return next((meta for meta in metas if meta is not None), None)

    def _job(self, kind: JobKind) -> Job | None:
        for task in self._tasks:
            meta = task.resource_meta
            job = self._store.run(records.get(meta.job_id)) if meta and self._store else None
            if job and job.kind is kind:
                return job
        return None


@contextmanager
def _files_in(folder: str) -> Iterator[None]:
    """flytekit's copies of files go there, and so away with it."""
    context = FlyteContextManager.current_context()
    access = FileAccessProvider(
        local_sandbox_dir=folder, raw_output_prefix=str(Path(folder) / "raw")
    )
    with FlyteContextManager.with_context(context.with_file_access(access)):
        yield


def _quiet_flytekit() -> None:
    """flytekit's own progress goes: drawn on no terminal, it vanishes. What it logs stays, except
    for the traceback of an error that it also raises."""
    rich.reconfigure(stderr=True, force_terminal=False, force_interactive=True)
    flytekit.loggers.logger.addFilter(_is_not_raised_too)


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Exception when executing")


def _own(error: BaseException | None) -> BatchflowError | None:
    """The error of ours that flytekit has wrapped, if there is one."""
    while error is not None:
        if isinstance(error, BatchflowError):
            return error
        error = error.__cause__ or error.__context__
    return None
