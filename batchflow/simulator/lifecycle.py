"""What happens to batches: one task for each, from `validating` to its end."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn, TypeVar

from batchflow.simulator.batches import Batch, Fate, Outcome
from batchflow.simulator.files import FileStore
from batchflow.simulator.inspection import BatchError, Inspection, inspect
from batchflow.simulator.results import Job, Tally, write_results
from batchflow.simulator.statuses import ENDED, KNOWN

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Files are read and written by so many threads: more would only fight over the interpreter.
_THREADS = 2
#: How much of a batch has run when an ordered `expired` or `cancelled` comes, unless told.
_HALF = 0.5

_UNEXECUTED = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}
_NOTHING_LEFT = ("", "")


class _Interrupted(Exception):
    """Raised inside a batch's task when it has to do something else."""


class Lives:
    """The tasks of all live batches."""

    def __init__(self, files: FileStore, on_end: Callable[[Batch], None]) -> None:
        self._files = files
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="batch")
        #: Tokens of an organization's batches that are in progress.
        self._enqueued: defaultdict[str, int] = defaultdict(int)

    def start(self, batch: Batch) -> None:
        """Let a new batch live."""
        task = asyncio.get_running_loop().create_task(self._live(batch), name=batch.id)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("batch %s stopped by a defect", task.get_name(), exc_info=error)

    async def stop_all(self) -> None:
        """End every task; the batches stay as they are."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._enqueued.clear()

    async def close(self) -> None:
        """End every task and thread."""
        await self.stop_all()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _live(self, batch: Batch) -> None:
        try:
            await self._follow(batch)
        finally:
            # Also when the task is stopped: nobody is to wait for what doesn't come any more.
            batch.ended.set()

    async def _follow(self, batch: Batch) -> None:
        step = self._run
        while batch.status not in ENDED:
            try:
                await step(batch)
            except _Interrupted:
                step = self._obey
            except OSError as error:
                logger.warning("batch %s: its files can't be used: %s", batch.id, error)
                self._fail(batch, BatchError("file_not_found", "The input file is not available."))

    async def _run(self, batch: Batch) -> None:
        """The course of a batch that nobody interrupts."""
        await self._wait(batch, batch.config.validating_s)
        if not await self._admit(batch):
            return
        await self._detour(batch)
        await self._work(batch)
        await self._wait(batch, batch.config.finalizing_s)
        await self._finish(batch, "completed")

    async def _obey(self, batch: Batch) -> None:
        """Carry out an order that came while the batch lived."""
        order, batch.order = batch.order, None
        batch.interrupted.clear()
        if order is None:
            raise RuntimeError("interrupted without an order")
        if order.status == "failed":
            await self._ensure_inspected(batch)
            self._fail(batch, batch.failure(order.code or "server_error", order.message))
            return
        if order.status == "cancelled" and batch.status == "cancelling":
            await self._wait(batch, batch.config.cancelling_s)
        if order.status != "cancelled" and not await self._admit(batch):
            return
        self._stop(batch, order)
        if order.status == "completed":
            batch.enter("finalizing", time.time())
        await self._finish(batch, order.status)

    async def _admit(self, batch: Batch) -> bool:
        """Let a batch's input be read and its tokens be counted; `False`: it has failed."""
        inspection = await self._ensure_inspected(batch)
        fate = batch.fate
        if inspection.errors:
            self._fail(batch, *inspection.errors)
        elif fate is not None and fate.status == "failed":
            self._fail(batch, batch.failure(fate.code or "server_error", fate.message))
        elif "in_progress" not in batch.entered_at:
            return self._enqueue(batch, inspection)
        return batch.status != "failed"

    async def _ensure_inspected(self, batch: Batch) -> Inspection:
        if batch.inspection is None:
            stored = self._files.of(batch.organization).get(batch.input_file_id)
            if stored is None:
                raise FileNotFoundError(batch.input_file_id)
            read = partial(inspect, stored.path, batch.endpoint, batch.config)
            batch.inspection = await self._in_thread(read)
            self._check(batch)
        return batch.inspection

    def _enqueue(self, batch: Batch, inspection: Inspection) -> bool:
        limit = batch.config.enqueued_token_limit
        enqueued = self._enqueued[batch.organization] + inspection.tokens
        if limit is not None and enqueued > limit:
            self._fail(batch, batch.failure("token_limit_exceeded"))
            return False
        self._enqueued[batch.organization] = enqueued
        batch.enqueued_tokens = inspection.tokens
        return True

    async def _detour(self, batch: Batch) -> None:
        """Show a status that OpenAI doesn't list, if one is wanted."""
        config, fate = batch.config, batch.fate
        if fate is not None and fate.status not in KNOWN:
            batch.enter(fate.status, time.time())
            shown_s = config.extra_status_s if fate.shown_s is None else fate.shown_s
            await self._wait(batch, shown_s)
        elif config.extra_status is not None:
            batch.enter(config.extra_status, time.time())
            await self._wait(batch, config.extra_status_s)

    async def _work(self, batch: Batch) -> None:
        """Be `in_progress` until all requests have run, or the batch has to stop."""
        total = batch.inspection.total if batch.inspection else 0
        batch.work_s = batch.config.in_progress_s + total * batch.config.per_request_s
        started = time.time()
        batch.enter("in_progress", started)
        fate = batch.fate
        if fate is not None and fate.status in ("expired", "cancelled"):
            share = _HALF if fate.done_share is None else fate.done_share
            await self._wait(batch, batch.work_s * share)
            self._stop_short(batch, Fate(fate.status, done_share=share))
        if started + batch.work_s > batch.expires_at:
            await self._wait(batch, max(0.0, batch.expires_at - started))
            self._stop_short(batch, Fate("expired"))
        await self._wait(batch, batch.work_s)
        batch.stopped_at = total
        batch.enter("finalizing", time.time())

    def _stop_short(self, batch: Batch, order: Fate) -> NoReturn:
        self._stop(batch, order)
        if order.status == "cancelled":
            batch.enter("cancelling", time.time())
        batch.interrupt(order)
        raise _Interrupted

    def _stop(self, batch: Batch, order: Fate) -> None:
        """Settle how many requests have run."""
        total = batch.inspection.total if batch.inspection else 0
        if order.status == "completed":
            batch.stopped_at = total
        elif batch.stopped_at is None:
            if order.done_share is not None:
                batch.stopped_at = int(total * order.done_share)
            else:
                batch.stopped_at = batch.done_at(time.time())

    async def _finish(self, batch: Batch, status: str) -> None:
        """Write what the batch leaves, and end it."""
        outcome = Outcome()
        if batch.inspection is not None and not batch.inspection.errors:
            outcome = await self._write(batch, status)
        batch.outcome = outcome
        self._end(batch, status)

    async def _write(self, batch: Batch, status: str) -> Outcome:
        stored = self._files.of(batch.organization).get(batch.input_file_id)
        if stored is None:
            raise FileNotFoundError(batch.input_file_id)
        job = Job(
            batch_id=batch.id,
            endpoint=batch.endpoint,
            config=batch.config,
            source=stored.path,
            done=batch.stopped_at or 0,
            unexecuted=_UNEXECUTED.get(status, _NOTHING_LEFT),
            output=self._files.new_path(),
            errors=self._files.new_path(),
            now=int(time.time()),
        )
        try:
            tally = await self._in_thread(partial(write_results, job))
            self._check(batch)
        except BaseException:
            job.output.unlink(missing_ok=True)
            job.errors.unlink(missing_ok=True)
            raise
        return self._publish(batch, job, tally)

    def _publish(self, batch: Batch, job: Job, tally: Tally) -> Outcome:
        outcome = Outcome(tally.completed, tally.failed, tally.input_tokens, tally.output_tokens)
        now = time.time()
        for path, kind in ((job.output, "output"), (job.errors, "error")):
            if path.stat().st_size == 0:
                path.unlink()
                continue
            stored = self._files.add(
                path,
                organization=batch.organization,
                filename=f"{batch.id}_{kind}.jsonl",
                purpose="batch_output",
                now=now,
                expires_after_s=batch.output_expires_after_s,
            )
            if kind == "output":
                outcome.output_file_id = stored.id
            else:
                outcome.error_file_id = stored.id
        return outcome

    def _fail(self, batch: Batch, *errors: BatchError) -> None:
        batch.errors = errors
        self._end(batch, "failed")

    def _end(self, batch: Batch, status: str) -> None:
        self._enqueued[batch.organization] -= batch.enqueued_tokens
        batch.enter(status, time.time())
        self._on_end(batch)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _check(self, batch: Batch) -> None:
        if batch.interrupted.is_set():
            raise _Interrupted

    async def _wait(self, batch: Batch, seconds: float) -> None:
        """Wait, unless an order comes.

        Raises:
            _Interrupted: One has.
        """
        try:
            async with asyncio.timeout(seconds):
                await batch.interrupted.wait()
        except TimeoutError:
            self._check(batch)
            return
        raise _Interrupted
