"""What every step needs at hand, made once per process."""

from collections.abc import Mapping
from dataclasses import dataclass

from batchflow.jobs import Credential
from batchflow.openai_api import OpenAIApi, connect_openai
from batchflow.queue import Sender
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import JobStore, commands


@dataclass(frozen=True)
class Runtime:
    """A worker process' connections. Nothing is sent anywhere until a step needs it."""

    settings: Settings
    store: JobStore
    sender: Sender

    def openai(self, credential: Credential) -> OpenAIApi:
        """OpenAI's API with this credential; raises CredentialMissing."""
        return connect_openai(credential, self.settings.openai_timeout_s)

    def update(
        self,
        job_id: str,
        source: str,
        fields: Mapping[str, commands.Value] | None = None,
        *,
        to: JobState | None = None,
        due_in_s: float | None = None,
    ) -> commands.Updated:
        """Change a live job, see ``commands.update``."""
        return self.store.run(
            commands.update(job_id, source=source, to=to, due_in_s=due_in_s, fields=fields)
        )
