"""What several tests of the steps begin with: an emulator, and workers of an organization."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from batchflow_workers.runtime import Runtime

from batchflow.openai_client import client
from batchflow.queue import Step
from batchflow.settings import Settings
from batchflow.states import Phase, phase_of
from batchflow.store import connect, keys, records
from tests.kit.emulator import Emulator
from tests.kit.processes import until
from tests.kit.steps import Notes, Steps

KEY = "sk-test-key-of-the-workers"

_QUICK = {"settle_s": 0, "poll_interval_s": 0.05, "lease_s": 0.5, "openai_timeout_s": 5}


class Team(Steps):
    """Workers that take whatever the sweep sends, and keep an eye on the phases."""

    def work(self) -> None:
        """A tick of beat, and all that follows from it."""
        for step, about in self.sweep():
            match step:
                case Step.POLL:
                    self.poll(*about)
                case Step.CANCEL:
                    self.cancel(about)
                case _:
                    self.step(about)

    def work_until(self, condition: Callable[[], object], what: str) -> None:
        """Tick until something is so."""

        def is_so_now() -> object:
            self.work()
            return condition()

        until(is_so_now, what, every_s=0.02)

    def phase(self, job_id: str) -> Phase:
        """What Flyte is told."""
        job = self.job(job_id)
        return phase_of(job.kind, job.state, job.stage)

    def make_due(self, job_id: str) -> None:
        """As if the time for it had come."""
        self.runtime.store.run(records.update(job_id, source="test", due_in_s=-1))

    def redis_key(self, name: str) -> str:
        """A key as Redis has it."""
        return keys.full(self.runtime.settings.key_prefix, name)

    def empty_redis(self) -> None:
        """All that Batchflow knows is gone."""
        redis = self.runtime.store.redis
        for key in list(redis.scan_iter(self.redis_key("*"))):
            redis.delete(key)

    def batches_of(self, job_id: str) -> list[dict[str, Any]]:
        """All that a job has made at OpenAI, oldest first."""
        return [b for b in self.batches() if (b["metadata"] or {}).get("batchflow_job") == job_id]


@contextmanager
def team(
    emulator: Emulator,
    settings: Callable[..., Settings],
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    **values: object,
) -> Iterator[Team]:
    """Workers with settings, of an organization that nobody else belongs to."""
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.base_url)
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", KEY)
    client.cached_sdk_client.cache_clear()
    chosen, notes = settings(**_QUICK | values), Notes()
    store = connect(chosen)
    with store.redis:
        yield Team(Runtime(chosen, store, notes), emulator, f"org-{key_prefix}", notes)
    client.cached_sdk_client(KEY, f"org-{key_prefix}", chosen.openai_timeout_s).close()
    client.cached_sdk_client.cache_clear()
