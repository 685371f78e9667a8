"""The two stores: the same commands over a blocking and over an asyncio Redis client."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import Any, TypeVar

from redis import Redis, exceptions
from redis.asyncio import Redis as AsyncRedis

from batchflow import keys
from batchflow.errors import StoreUnavailable
from batchflow.jobs import Standing
from batchflow.store.commands import Command, standings

T = TypeVar("T")

#: A job's id, and who waits for its standing.
_Question = tuple[str, asyncio.Future[Standing | None]]

_SCRIPTS = resources.files("batchflow.store") / "lua"
_SHARED = "_shared"

#: How long the asyncio store waits for an answer, its own retries included. Flyte gives a call
#: ten seconds, in which there may be two commands.
ANSWER_S = 4.0


def script_source(name: str) -> str:
    """A Lua command as Redis gets it: what all share, then its own file."""
    return "".join((_SCRIPTS / f"{part}.lua").read_text("utf-8") for part in (_SHARED, name))


def script_names() -> list[str]:
    """The Lua commands that there are."""
    files = (path.name for path in _SCRIPTS.iterdir() if path.name.endswith(".lua"))
    return sorted({name.removesuffix(".lua") for name in files} - {_SHARED})


@contextmanager
def _translated() -> Iterator[None]:
    """Redis' failures that pass by themselves become StoreUnavailable; bugs stay what they are."""
    try:
        yield
    except exceptions.ResponseError as error:
        passing = (exceptions.ReadOnlyError, exceptions.OutOfMemoryError)
        if not isinstance(error, passing):
            raise
        raise StoreUnavailable(f"Redis can't write now: {error}") from error
    except (exceptions.RedisError, OSError) as error:
        # The client's message names the address and never the password.
        raise StoreUnavailable(f"Redis can't be reached: {error}") from error


@asynccontextmanager
async def _translated_in_time() -> AsyncIterator[None]:
    with _translated():
        try:
            async with asyncio.timeout(ANSWER_S):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(
                f"Redis can't be reached: no answer within {ANSWER_S:g} s."
            ) from error


class JobStore:
    """The job store for workers and the command line; blocks."""

    def __init__(self, redis: "Redis", prefix: str) -> None:
        self.redis = redis
        self._prefix = prefix
        self._scripts = {
            name: redis.register_script(script_source(name)) for name in script_names()
        }

    def run(self, command: Command[T]) -> T:
        """Carry out a command."""
        with _translated():
            return command.parse(self._send(command, self.redis))

    def run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        """Carry out many commands in one round trip; they are not one transaction."""
        with _translated(), self.redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                self._send(command, pipeline)
            answers = pipeline.execute()
        return [command.parse(raw) for command, raw in zip(commands, answers, strict=True)]

    def _send(self, command: Command[T], client: Any) -> Any:
        names = [keys.full(self._prefix, name) for name in command.keys]
        if command.is_script:
            return self._scripts[command.name](keys=names, args=list(command.args), client=client)
        return client.execute_command(command.name, *command.options, *names, *command.args)


class AsyncJobStore:
    """The job store for the connector and the gateway. It belongs to one event loop."""

    def __init__(self, redis: "AsyncRedis", prefix: str) -> None:
        self.redis = redis
        self._prefix = prefix
        self._asked: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None
        self._scripts = {
            name: redis.register_script(script_source(name)) for name in script_names()
        }

    async def run(self, command: Command[T]) -> T:
        """Carry out a command."""
        async with _translated_in_time():
            raw = await self._send(command, self.redis)
        return command.parse(raw)

    async def standing(self, job_id: str) -> Standing | None:
        """What Flyte is told of a job. All questions that come while Redis answers the ones
        before share a round trip; a lone one is asked at once."""
        answer: asyncio.Future[Standing | None] = asyncio.get_running_loop().create_future()
        self._asked.append((job_id, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        try:
            while self._asked:
                together, self._asked = self._asked, []
                await self._answer(together)
        finally:
            self._asking = None

    async def _answer(self, asked: list[_Question]) -> None:
        try:
            found = await self.run(standings([job_id for job_id, _ in asked]))
        except StoreUnavailable as error:
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(StoreUnavailable(str(error)))
        else:
            for (_, answer), standing in zip(asked, found, strict=True):
                if not answer.done():
                    answer.set_result(standing)

    async def run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        """Carry out many commands in one round trip; they are not one transaction."""
        async with _translated_in_time(), self.redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                await self._send(command, pipeline)
            answers = await pipeline.execute()
        return [command.parse(raw) for command, raw in zip(commands, answers, strict=True)]

    async def _send(self, command: Command[T], client: Any) -> Any:
        names = [keys.full(self._prefix, name) for name in command.keys]
        if command.is_script:
            script = self._scripts[command.name]
            return await script(keys=names, args=list(command.args), client=client)
        return await client.execute_command(command.name, *command.options, *names, *command.args)
