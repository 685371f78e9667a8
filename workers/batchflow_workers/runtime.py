"""What every step needs at hand, made once per process."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchflow.errors import StoreUnavailable
from batchflow.jobs import Credential
from batchflow.openai_client.api import OpenAIApi, connect_openai
from batchflow.openai_client.calls import CallOutcome, Operation
from batchflow.queue import Sender
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import JobStore, metrics, records
from batchflow.store.command import Command

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """A worker process' connections. Nothing is sent anywhere until a step needs it."""

    settings: Settings
    store: JobStore
    sender: Sender

    def openai(self, credential: Credential) -> OpenAIApi:
        """OpenAI's API with this credential; raises CredentialMissing."""
        return connect_openai(credential, self.settings.openai_timeout_s, self._count_call)

    def count(self, *counted: Command[Any]) -> None:
        """Count what happened, if that can be done: nothing may fail for it."""
        try:
            self.store.run_all(counted)
        except StoreUnavailable as error:
            logger.warning("Not counted: %s", error)
        except Exception:
            logger.exception("Not counted")

    def _count_call(self, operation: Operation, outcome: CallOutcome, seconds: float) -> None:
        self.count(
            metrics.count("openai_calls", operation, outcome),
            *metrics.observation("openai_call", seconds, operation),
        )

    def update(
        self,
        job_id: str,
        source: str,
        fields: Mapping[str, records.Value] | None = None,
        *,
        to: JobState | None = None,
        due_in_s: float | None = None,
    ) -> records.Updated:
        """Change a live job, see ``commands.update``."""
        return self.store.run(
            records.update(job_id, source=source, to=to, due_in_s=due_in_s, fields=fields)
        )
