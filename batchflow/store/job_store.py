"""The job store over a blocking and over an asyncio Redis client."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeVar

from redis import Redis, exceptions
from redis.asyncio import Redis as AsyncRedis

from batchflow.errors import StoreUnavailable
from batchflow.jobs import JobStatus
from batchflow.store import keys
from batchflow.store.command import Command
from batchflow.store.loader import DataLoader
from batchflow.store.records import job_statuses

T = TypeVar("T")

_SCRIPTS = resources.files("batchflow.store") / "lua"
_SHARED = "_shared"

#: How long the asyncio store waits for a reply, including retries. Flyte allows ten seconds for a
#: call, which may need two commands.
REPLY_TIMEOUT_S = 4.0


#: Redis is a replica, is full, or can't save or replicate what is written.
_REFUSES_WRITES = (exceptions.ReadOnlyError, exceptions.OutOfMemoryError)
_REFUSES_WRITES_CODES = ("MISCONF", "NOREPLICAS")


def script_source(name: str) -> str:
    """A Lua command as Redis loads it: the shared file, then its own."""
    return "".join((_SCRIPTS / f"{part}.lua").read_text("utf-8") for part in (_SHARED, name))


def script_names() -> list[str]:
    """The names of all Lua commands."""
    files = (path.name for path in _SCRIPTS.iterdir() if path.name.endswith(".lua"))
    return sorted({name.removesuffix(".lua") for name in files} - {_SHARED})


@contextmanager
def _translated() -> Iterator[None]:
    """Translate temporary failures of Redis into StoreUnavailable."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        ours = _ours(error)
        if ours is error:
            raise
        raise ours from error


def _ours(error: Exception) -> Exception:
    """StoreUnavailable for a temporary failure; any other error unchanged."""
    if isinstance(error, _REFUSES_WRITES) or str(error).startswith(_REFUSES_WRITES_CODES):
        return StoreUnavailable(f"Redis refuses writes: {error}")
    if isinstance(error, exceptions.ResponseError):
        return error
    # redis-py's message contains the address, and never the password.
    return StoreUnavailable(f"Redis can't be reached: {error}")


async def _in_time(work: Coroutine[Any, Any, T]) -> T:
    """Wait for Redis for a limited time.

    The work runs in its own task, which is abandoned after the timeout: with Python 3.11, its
    cancellation can get lost in redis-py's use of ``asyncio.wait_for``.
    """
    task = asyncio.ensure_future(work)
    # After the timeout, its result is not needed.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        done, _ = await asyncio.wait({task}, timeout=REPLY_TIMEOUT_S)
        if not done:
            raise _no_answer()
        with _translated():
            return task.result()
    finally:
        task.cancel()


def _no_answer() -> StoreUnavailable:
    return StoreUnavailable(f"Redis can't be reached: no reply within {REPLY_TIMEOUT_S:g} s.")


class _Sender:
    """Sends commands to a client of Redis; with an asyncio client, the reply is to be awaited."""

    def __init__(self, redis: Any, prefix: str) -> None:
        self._prefix = prefix
        self._scripts = {
            name: redis.register_script(script_source(name)) for name in script_names()
        }

    def _send(self, command: Command[Any], client: Any) -> Any:
        names = [keys.full(self._prefix, name) for name in command.keys]
        if script := self._scripts.get(command.name):
            return script(keys=names, args=list(command.args), client=client)
        return client.execute_command(command.name, *command.options, *names, *command.args)


class JobStore(_Sender):
    """The blocking job store, for workers and the command line."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        super().__init__(redis, prefix)
        self.redis = redis

    def run(self, command: Command[T]) -> T:
        """Run a command."""
        with _translated():
            return command.parse(self._send(command, self.redis))

    def run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        """Run several commands in one round trip, not as a transaction."""
        with _translated(), self.redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                self._send(command, pipeline)
            answers = pipeline.execute()
        return [command.parse(raw) for command, raw in zip(commands, answers, strict=True)]


class AsyncJobStore(_Sender):
    """The job store of an event loop, for the connector and the gateway."""

    def __init__(self, redis: AsyncRedis, prefix: str) -> None:
        super().__init__(redis, prefix)
        self.redis = redis
        self._commands: DataLoader[Command[Any], Any] = DataLoader(self._run_each)
        self._job_statuses: DataLoader[str, JobStatus | None] = DataLoader(
            lambda job_ids: self.run_alone(job_statuses(job_ids))
        )

    async def run(self, command: Command[T]) -> T:
        """Run a command, in one round trip with others that are run at the same time."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                answer: T = await self._commands.load(command)
        except TimeoutError as error:
            raise _no_answer() from error
        return answer

    async def run_alone(self, command: Command[T]) -> T:
        """Run a command on a connection of its own: one that blocks, or reads many records."""
        return command.parse(await _in_time(self._send(command, self.redis)))

    async def job_status(self, job_id: str) -> JobStatus | None:
        """The status of a job, or None if it has no readable record."""
        return await self._job_statuses.load(job_id)

    async def run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        """Run several commands in one round trip, not as a transaction."""
        answers = await _in_time(self._pipelined(commands))
        return [command.parse(raw) for command, raw in zip(commands, answers, strict=True)]

    async def _run_each(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """The result of each command, or its error."""
        answers = await _in_time(self._pipelined(commands, raise_on_error=False))
        return [
            _ours(raw) if isinstance(raw, Exception) else command.parse(raw)
            for command, raw in zip(commands, answers, strict=True)
        ]

    async def _pipelined(
        self, commands: Sequence[Command[Any]], *, raise_on_error: bool = True
    ) -> list[Any]:
        async with self.redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                await self._send(command, pipeline)
            return await pipeline.execute(raise_on_error=raise_on_error)
