"""The connections that routes use: the job store and Celery's broker."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from celery import Celery
from fastapi import Depends, Request

from batchflow.queue import QueueUnavailable, Sender, Step
from batchflow.settings import Settings
from batchflow.store import AsyncJobStore

#: How long a request waits for Celery's broker to accept a message.
_SEND_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class GatewayConnections:
    """The gateway's settings and connections, of one event loop."""

    settings: Settings
    store: AsyncJobStore
    celery: Celery
    sender: Sender

    async def send(self, step: Step, job_id: str) -> None:
        """Enqueue a step; raises QueueUnavailable if the broker is unavailable or slow."""
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await asyncio.to_thread(self.sender.send, step, job_id)
        except TimeoutError as error:
            raise QueueUnavailable("Celery's broker did not answer in time.") from error


def from_app(name: str) -> Any:
    """A dependency of a route: what the app's state has under this name."""

    def dependency(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(dependency)


#: For a route's parameter: ``connections: AppConnections``.
AppConnections = Annotated[GatewayConnections, from_app("connections")]
