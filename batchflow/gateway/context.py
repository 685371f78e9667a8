"""What the routes have at hand: settings, the job store, Celery's queues."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from celery import Celery
from fastapi import Depends, Request

from batchflow.queue import QueueUnavailable, Sender, Step
from batchflow.settings import Settings
from batchflow.store import AsyncJobStore

#: How long a request waits for Celery's broker to take a message.
_SEND_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class GatewayContext:
    """The gateway's connections, of one event loop."""

    settings: Settings
    store: AsyncJobStore
    celery: Celery
    sender: Sender

    async def send(self, step: Step, job_id: str) -> None:
        """Queue a step; raises QueueUnavailable when the broker is away or slow."""
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await asyncio.to_thread(self.sender.send, step, job_id)
        except TimeoutError as error:
            raise QueueUnavailable("Celery's broker did not answer in time.") from error


def _of(request: Request) -> GatewayContext:
    context: GatewayContext = request.app.state.context
    return context


#: For a route's parameter: ``context: AppContext``.
AppContext = Annotated[GatewayContext, Depends(_of)]
