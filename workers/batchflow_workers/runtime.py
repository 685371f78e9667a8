"""The connections and the policy that all steps of a worker process share."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchflow.errors import StoreUnavailable
from batchflow.jobs import Credential
from batchflow.openai_client.calls import CallOutcome, Operation
from batchflow.openai_client.client import OpenAIApi, connect_openai
from batchflow.queue import Sender
from batchflow.settings import Settings
from batchflow.states import JobState, WaitingFor
from batchflow.store import JobStore, metrics, records
from batchflow.store.command import Command
from batchflow_workers.policy import Policy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """What a step works with. Nothing connects before a step needs it."""

    settings: Settings
    store: JobStore
    sender: Sender
    policy: Policy = field(default_factory=Policy)

    def openai(self, credential: Credential) -> OpenAIApi:
        """OpenAI's API with this credential; raises CredentialMissing."""
        return connect_openai(credential, self.settings.openai_timeout_s, self._count_call)

    def count(self, *counted: Command[Any]) -> None:
        """Update counters. A failure is logged: no step fails because of a counter."""
        try:
            self.store.run_all(counted)
        except StoreUnavailable as error:
            logger.warning("Not counted: %s", error)
        except Exception:
            logger.exception("Not counted")

    def update(
        self,
        job_id: str,
        source: str,
        fields: Mapping[str, records.Value] | None = None,
        *,
        to: JobState | None = None,
        due_in_s: float | None = None,
    ) -> records.Updated:
        """Change a live job, see ``records.update``."""
        return self.store.run(
            records.update(job_id, source=source, to=to, due_in_s=due_in_s, fields=fields)
        )

    def postpone(
        self,
        job_id: str,
        source: str,
        delay_s: float,
        message: str,
        waiting_for: WaitingFor | None = None,
    ) -> None:
        """Make a job due again later, with a message that says why."""
        fields = {"message": message, "waiting_for": waiting_for}
        self.update(job_id, source, fields, due_in_s=delay_s)

    def end(
        self, job_id: str, source: str, state: JobState, message: str, **fields: records.Value
    ) -> records.Updated:
        """End a job."""
        logger.info("%s: %s. %s", job_id, state, message)
        return self.update(job_id, source, {**fields, "message": message}, to=state)

    def _count_call(self, operation: Operation, outcome: CallOutcome, seconds: float) -> None:
        self.count(
            metrics.count("openai_calls", operation, outcome),
            *metrics.observation("openai_call", seconds, operation),
        )
