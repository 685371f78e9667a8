"""Run batches: one task for each, from `validating` to its end."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from batchflow.simulator.engine.batches import Batch, ScriptedEnd
from batchflow.simulator.engine.files import FileStore
from batchflow.simulator.engine.inspection import BatchError, Inspection, inspect
from batchflow.simulator.engine.results import ResultFiles, ResultsToWrite, write_results
from batchflow.simulator.statuses import ENDED, KNOWN

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The number of threads that read and write files; more would compete for the GIL.
_THREADS = 2
#: The share of the requests that run before a scripted `expired` or `cancelled`, by default.
_DEFAULT_DONE_SHARE = 0.5

_UNEXECUTED = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}
_ALL_EXECUTED = ("", "")


class _Interrupted(Exception):
    """Raised in a batch's task when another end was requested."""


class BatchRunner:
    """The tasks of all batches that have not ended."""

    def __init__(self, files: FileStore, on_end: Callable[[Batch], None]) -> None:
        self._files = files
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="batch")
        #: Enqueued tokens by organization.
        self._enqueued: defaultdict[str, int] = defaultdict(int)

    def start(self, batch: Batch) -> None:
        """Start the task of a new batch."""
        task = asyncio.get_running_loop().create_task(self._run_task(batch), name=batch.id)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("batch %s: unexpected error", task.get_name(), exc_info=error)

    async def stop_all(self) -> None:
        """Stop all tasks; the batches keep their statuses."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._enqueued.clear()

    async def close(self) -> None:
        """Stop all tasks and threads."""
        await self.stop_all()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run_task(self, batch: Batch) -> None:
        try:
            await self._run_to_end(batch)
        finally:
            # Also when the task is stopped, so that no caller waits forever.
            batch.ended.set()

    async def _run_to_end(self, batch: Batch) -> None:
        step = self._run_uninterrupted
        while batch.status not in ENDED:
            try:
                await step(batch)
            except _Interrupted:
                step = self._apply_requested_end
            except OSError as error:
                logger.warning("batch %s: its files cannot be used: %s", batch.id, error)
                self._fail(batch, BatchError("file_not_found", "The input file is not available."))

    async def _run_uninterrupted(self, batch: Batch) -> None:
        """Run a batch through all its statuses."""
        await self._wait(batch, batch.config.validating_s)
        if not await self._admit(batch):
            return
        await self._show_extra_status(batch)
        await self._execute_requests(batch)
        await self._wait(batch, batch.config.finalizing_s)
        await self._finish(batch, "completed")

    async def _apply_requested_end(self, batch: Batch) -> None:
        """Apply the end that was requested while the batch ran."""
        end, batch.requested_end = batch.requested_end, None
        batch.interrupted.clear()
        if end is None:
            raise RuntimeError("interrupted without a requested end")
        if end.status == "failed":
            await self._ensure_inspected(batch)
            self._fail(batch, batch.failure(end.code or "server_error", end.message))
            return
        if end.status == "cancelled" and batch.status == "cancelling":
            await self._wait(batch, batch.config.cancelling_s)
        if end.status != "cancelled" and not await self._admit(batch):
            return
        self._stop(batch, end)
        if end.status == "completed":
            batch.enter("finalizing", time.time())
        await self._finish(batch, end.status)

    async def _admit(self, batch: Batch) -> bool:
        """Validate the input and count its tokens; return `False` if the batch has failed."""
        inspection = await self._ensure_inspected(batch)
        scripted_end = batch.scripted_end
        if inspection.errors:
            self._fail(batch, *inspection.errors)
        elif scripted_end is not None and scripted_end.status == "failed":
            self._fail(
                batch, batch.failure(scripted_end.code or "server_error", scripted_end.message)
            )
        elif "in_progress" not in batch.entered_at:
            return self._enqueue(batch, inspection)
        return batch.status != "failed"

    async def _ensure_inspected(self, batch: Batch) -> Inspection:
        if batch.inspection is None:
            read = partial(inspect, self._input_path(batch), batch.endpoint, batch.config)
            batch.inspection = await self._in_thread(read)
            self._raise_if_interrupted(batch)
        return batch.inspection

    def _input_path(self, batch: Batch) -> Path:
        stored = self._files.of(batch.organization).get(batch.input_file_id)
        if stored is None:
            raise FileNotFoundError(batch.input_file_id)
        return stored.path

    def _enqueue(self, batch: Batch, inspection: Inspection) -> bool:
        limit = batch.config.enqueued_token_limit
        enqueued = self._enqueued[batch.organization] + inspection.tokens
        if limit is not None and enqueued > limit:
            self._fail(batch, batch.failure("token_limit_exceeded"))
            return False
        self._enqueued[batch.organization] = enqueued
        batch.enqueued_tokens = inspection.tokens
        return True

    async def _show_extra_status(self, batch: Batch) -> None:
        """Show an undocumented status if one is configured or scripted."""
        status, shown_s = batch.config.extra_status, batch.config.extra_status_s
        scripted_end = batch.scripted_end
        if scripted_end is not None and scripted_end.status not in KNOWN:
            status = scripted_end.status
            shown_s = shown_s if scripted_end.shown_s is None else scripted_end.shown_s
        if status is not None:
            batch.enter(status, time.time())
            await self._wait(batch, shown_s)

    async def _execute_requests(self, batch: Batch) -> None:
        """Stay `in_progress` until all requests have run or the batch must end early."""
        batch.run_s = batch.config.in_progress_s + batch.total * batch.config.per_request_s
        started = time.time()
        batch.enter("in_progress", started)
        scripted_end = batch.scripted_end
        if scripted_end is not None and scripted_end.status in ("expired", "cancelled"):
            share = (
                _DEFAULT_DONE_SHARE if scripted_end.done_share is None else scripted_end.done_share
            )
            await self._wait(batch, batch.run_s * share)
            self._end_early(batch, ScriptedEnd(status=scripted_end.status, done_share=share))
        if started + batch.run_s > batch.expires_at:
            await self._wait(batch, max(0.0, batch.expires_at - started))
            self._end_early(batch, ScriptedEnd(status="expired"))
        await self._wait(batch, batch.run_s)
        batch.requests_run = batch.total
        batch.enter("finalizing", time.time())

    def _end_early(self, batch: Batch, end: ScriptedEnd) -> NoReturn:
        self._stop(batch, end)
        if end.status == "cancelled":
            batch.enter("cancelling", time.time())
        batch.interrupt(end)
        raise _Interrupted

    def _stop(self, batch: Batch, end: ScriptedEnd) -> None:
        """Record how many requests have run."""
        if end.status == "completed":
            batch.requests_run = batch.total
        elif end.done_share is None or batch.requests_run is not None:
            batch.requests_run = batch.done_at(time.time())
        else:
            batch.requests_run = int(batch.total * end.done_share)

    async def _finish(self, batch: Batch, status: str) -> None:
        """Write the result files and end the batch."""
        has_results = batch.inspection is not None and not batch.inspection.errors
        batch.result_files = await self._write(batch, status) if has_results else ResultFiles()
        self._end(batch, status)

    async def _write(self, batch: Batch, status: str) -> ResultFiles:
        work = ResultsToWrite(
            batch_id=batch.id,
            endpoint=batch.endpoint,
            config=batch.config,
            source=self._input_path(batch),
            done=batch.requests_run or 0,
            unexecuted=_UNEXECUTED.get(status, _ALL_EXECUTED),
            output=self._files.new_path(),
            errors=self._files.new_path(),
            now=int(time.time()),
        )
        try:
            files = await self._in_thread(partial(write_results, work))
            self._raise_if_interrupted(batch)
        except BaseException:
            work.output.unlink(missing_ok=True)
            work.errors.unlink(missing_ok=True)
            raise
        files.output_file_id = self._add_result_file(batch, work.output, "output")
        files.error_file_id = self._add_result_file(batch, work.errors, "error")
        return files

    def _add_result_file(self, batch: Batch, path: Path, kind: str) -> str | None:
        if path.stat().st_size == 0:
            path.unlink()
            return None
        stored = self._files.add(
            path,
            organization=batch.organization,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            now=time.time(),
            expires_after_s=batch.output_expires_after_s,
        )
        return stored.id

    def _fail(self, batch: Batch, *errors: BatchError) -> None:
        batch.errors = errors
        self._end(batch, "failed")

    def _end(self, batch: Batch, status: str) -> None:
        self._enqueued[batch.organization] -= batch.enqueued_tokens
        batch.enter(status, time.time())
        self._on_end(batch)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _raise_if_interrupted(self, batch: Batch) -> None:
        if batch.interrupted.is_set():
            raise _Interrupted

    async def _wait(self, batch: Batch, seconds: float) -> None:
        """Wait, unless another end is requested.

        Raises:
            _Interrupted: Another end was requested.
        """
        try:
            async with asyncio.timeout(seconds):
                await batch.interrupted.wait()
        except TimeoutError:
            self._raise_if_interrupted(batch)
            return
        raise _Interrupted
