"""Questions that come while earlier ones are being answered are asked together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

#: Asked in one round, so that nobody else at Redis waits long.
_MOST = 100
#: While questions come in crowds, a round waits so long for others to join.
_GATHER_S = 0.002


class DataLoader(Generic[Q, A]):
    """Collects questions of one event loop. A lone one is asked at once; of many that come at the
    same time, most share a round trip and one connection."""

    def __init__(self, answer: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]]) -> None:
        """``answer`` gives each question its answer or its error, in their order; what it raises
        itself is everybody's error."""
        self._answer = answer
        self._asked: list[tuple[Q, asyncio.Future[A]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._crowded = False

    async def ask(self, question: Q) -> A:
        """The answer to a question."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.append((question, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        try:
            while self._asked:
                if self._crowded and len(self._asked) < _MOST:
                    await asyncio.sleep(_GATHER_S)
                self._crowded = len(self._asked) > 1
                together, self._asked = self._asked[:_MOST], self._asked[_MOST:]
                for (_, waiting), answer in zip(
                    together, await self._answers([q for q, _ in together]), strict=True
                ):
                    if waiting.done():
                        continue
                    if isinstance(answer, Exception):
                        waiting.set_exception(answer)
                    else:
                        waiting.set_result(answer)
        finally:
            self._asking = None

    async def _answers(self, questions: Sequence[Q]) -> Sequence[A | Exception]:
        try:
            return await self._answer(questions)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            return [error] * len(questions)
