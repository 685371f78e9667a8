"""The calls that a poll makes, by the number of batches and their places in OpenAI's list."""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import pytest
from batchflow_workers.observation import Observation
from batchflow_workers.policy import Policy
from batchflow_workers.polling.poll import poll
from batchflow_workers.polling.scan import Cursor
from batchflow_workers.polling.sweep import sweep
from batchflow_workers.reconcile import reconcile
from batchflow_workers.runtime import Runtime
from openai.types import Batch

from batchflow.jobs import BatchSpec, Credential, Job
from batchflow.openai_client.client import PAGE
from batchflow.queue import QueueUnavailable, Step
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import JobStore, connect, keys, leases, records
from batchflow.store.command import Command
from tests.kit.job_requests import a_job_request
from tests.kit.workers import RecordingSender, scripted_runtime

DAY_S = 86_400
CLAIMED_JOBS = Policy().claimed_jobs
HOUR_S = 3_600
CREDENTIAL, OTHER = (Credential(organization=name) for name in ("org-1", "org-2"))
POLL_S = 15


@dataclass
class ListServer:
    """OpenAI with a list of batches that the test fills."""

    #: Newest first.
    batches: list[dict[str, Any]] = field(default_factory=list)
    #: Batches that can be retrieved, though the list does not show them.
    unlisted: list[dict[str, Any]] = field(default_factory=list)
    #: How the parameter `after` is treated: honoured, ignored or refused.
    after: str = "honoured"
    #: The moment that ages count from.
    now_s: float = field(default_factory=time.time)
    lists: int = 0
    retrieves: int = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        batch_id = re.sub(r"^/v1/batches/?", "", request.url.path)
        if not batch_id:
            self.lists += 1
            return self._page(request.url.params.get("after"))
        self.retrieves += 1
        for batch in [*self.batches, *self.unlisted]:
            if batch["id"] == batch_id:
                return httpx2.Response(200, json=batch)
        return httpx2.Response(404, json={"error": {"message": "No such batch."}})

    def _page(self, after: str | None) -> httpx2.Response:
        if after and self.after == "refused":
            return httpx2.Response(400, json={"error": {"message": "Unknown parameter."}})
        ids = [batch["id"] for batch in self.batches]
        first = ids.index(after) + 1 if after and self.after == "honoured" else 0
        page = self.batches[first : first + PAGE]
        more = first + PAGE < len(ids)
        return httpx2.Response(200, json={"object": "list", "data": page, "has_more": more})

    def add(self, name: str, age_s: float, **fields: Any) -> dict[str, Any]:
        """Add a batch to the list."""
        created_at = int(self.now_s - age_s)
        batch = {
            "id": f"batch_{name}",
            "object": "batch",
            "completion_window": "24h",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file-1",
            "status": "in_progress",
            "created_at": created_at,
            "expires_at": created_at + DAY_S,
            "request_counts": {"total": 9, "completed": 1, "failed": 0},
            "metadata": {},
            **fields,
        }
        self.batches.append(batch)
        self.batches.sort(key=lambda batch: -int(batch["created_at"]))
        return batch

    @property
    def calls(self) -> tuple[int, int]:
        """The calls for pages and for single batches."""
        return self.lists, self.retrieves


@dataclass
class ListWorkers:
    """Workers whose batches are in that list."""

    runtime: Runtime
    server: ListServer
    sender: RecordingSender

    def submitted(
        self, ages_s: Sequence[float], *, job_age_s: float = 0, credential: Credential = CREDENTIAL
    ) -> list[str]:
        """Jobs whose batches have these ages, newest first; jobs are at least ``job_age_s`` old."""
        job_requests = [
            a_job_request(spec=BatchSpec(credential=credential, input_file_id="file-1", config={}))
            for _ in ages_s
        ]
        store = self.runtime.store
        made = store.run_all(
            [records.create(job_request, due_in_s=0) for job_request in job_requests]
        )
        seen = []
        for number, (age_s, new) in enumerate(zip(ages_s, made, strict=True)):
            assert new.job is not None
            batch = self.server.add(
                f"{number}_{age_s}_{new.job.id}", age_s, metadata={"batchflow_job": new.job.id}
            )
            seen.append(Observation(new.job, Batch.model_validate(batch), new=True))
        reconcile(self.runtime, seen, "submit")
        pipeline: Any = store.redis.pipeline(transaction=False)
        for job_request, age_s in zip(job_requests, ages_s, strict=True):
            created_at = f"{time.time() - max(age_s, job_age_s):.6f}"
            pipeline.hset(self._key(keys.job(job_request.job_id)), "created_at", created_at)
        pipeline.execute()
        return [job_request.job_id for job_request in job_requests]

    def foreign(self, count: int, since_s: float, until_s: float = 0) -> None:
        """Add batches of no job, whose ages are spread evenly between the two."""
        for number in range(count):
            age_s = until_s + (since_s - until_s) * number / count
            self.server.add(f"foreign_{number}_{since_s}", age_s)

    def poll_ended(self, ids: Sequence[str]) -> tuple[int, int]:
        """End all batches, poll these, and return the calls for pages and for single batches."""
        for batch in [*self.server.batches, *self.server.unlisted]:
            batch["status"] = "failed"
        calls = self.poll_running(ids)
        assert {job.state for job in self.jobs(ids)} == {JobState.FAILED}
        return calls

    def poll_running(self, ids: Sequence[str]) -> tuple[int, int]:
        """Poll batches, and return the calls for pages and for single batches."""
        lists, retrieves = self.server.calls
        poll(self.runtime, list(ids))
        return self.server.lists - lists, self.server.retrieves - retrieves

    def sweep(self) -> list[Any]:
        """Sweep, and return the jobs that each poll message names."""
        self.sender.sent.clear()
        sweep(self.runtime)
        return [ids for step, ids in self.sender.sent if step is Step.POLL]

    def jobs(self, ids: Sequence[str]) -> list[Job]:
        found = self.runtime.store.run_all([records.get(job_id) for job_id in ids])
        return [job for job in found if job]

    def due_in_s(self, ids: Sequence[str]) -> list[float]:
        redis: Any = self.runtime.store.redis
        now_s = self.runtime.store.run(records.time())
        return [float(at) - now_s for at in redis.zmscore(self._key(keys.DUE), list(ids))]

    def make_due(self, ids: Sequence[str]) -> None:
        redis: Any = self.runtime.store.redis
        redis.zadd(self._key(keys.DUE), dict.fromkeys(ids, time.time() - 1))

    def _key(self, name: str) -> str:
        return keys.full(self.runtime.settings.key_prefix, name)


@pytest.fixture
def workers(settings: Callable[..., Settings]) -> Iterator[ListWorkers]:
    server, sender, chosen = ListServer(), RecordingSender(), settings(poll_interval_s=POLL_S)
    store = connect(chosen)
    with store.redis:
        runtime = scripted_runtime(chosen, store, sender, server)
        # The number of calls must not depend on the speed of the machine.
        runtime = replace(runtime, policy=Policy(longest_scan_s=math.inf))
        yield ListWorkers(runtime, server, sender)


# Pages


def test_pages_show_all_due_batches(workers: ListWorkers) -> None:
    assert workers.poll_ended(workers.submitted([n / 10 for n in range(250)])) == (3, 0)


def test_pages_show_due_batches_among_as_many_others(workers: ListWorkers) -> None:
    workers.foreign(500, HOUR_S)
    assert workers.poll_ended(workers.submitted([HOUR_S * n / 500 for n in range(500)])) == (10, 0)


def test_old_batches_behind_thousands_of_others(workers: ListWorkers) -> None:
    workers.foreign(3_000, HOUR_S)
    old = workers.submitted([HOUR_S + n for n in range(150)])
    assert workers.poll_ended(old) == (3, 1)


def test_old_batches_far_apart_are_retrieved_one_by_one(workers: ListWorkers) -> None:
    workers.foreign(3_000, HOUR_S)
    scattered = workers.submitted([HOUR_S * n / 10 for n in range(1, 10)])
    assert workers.poll_ended(scattered) == (3, 9)


def test_a_group_is_found_behind_scattered_batches(workers: ListWorkers) -> None:
    workers.foreign(3_000, HOUR_S)
    scattered = workers.submitted([HOUR_S * n / 10 for n in range(1, 9)])
    together = workers.submitted([HOUR_S + n for n in range(120)])
    lists, retrieves = workers.poll_ended(scattered + together)
    assert lists <= 5
    assert retrieves <= len(scattered) + 8


def test_two_groups_with_others_between(workers: ListWorkers) -> None:
    new = workers.submitted([n / 10 for n in range(150)])
    workers.foreign(1_000, HOUR_S, 60)
    old = workers.submitted([HOUR_S + n for n in range(150)])
    assert workers.poll_ended(new + old) == (5, 1)


def test_batches_created_in_the_same_second(workers: ListWorkers) -> None:
    ids = workers.submitted([5] * 400)
    assert workers.poll_ended(ids[200:]) == (3, 1)


def test_jobs_that_waited_for_quota_are_ordered_by_their_batches(workers: ListWorkers) -> None:
    workers.foreign(1_000, HOUR_S)
    ages_s = [HOUR_S / 2 + n for n in range(150)] + [HOUR_S + n for n in range(150)]
    ids = workers.submitted(ages_s, job_age_s=DAY_S)
    lists, retrieves = workers.poll_ended(ids[::-1])
    assert lists + retrieves <= 12


# Servers with other lists


def test_a_batch_that_the_list_omits_is_retrieved(workers: ListWorkers) -> None:
    ids = workers.submitted([n / 10 for n in range(250)])
    workers.server.unlisted.append(workers.server.batches.pop(120))
    assert workers.poll_ended(ids) == (3, 1)


@pytest.mark.parametrize("after", ["ignored", "refused"])
def test_a_server_with_only_one_page(workers: ListWorkers, after: str) -> None:
    workers.server.after = after
    ids = workers.submitted([n / 10 for n in range(180)])
    lists, retrieves = workers.poll_ended(ids)
    assert retrieves == 80
    assert lists <= 3 + 80 / 7


def test_a_useless_list_costs_few_calls(workers: ListWorkers) -> None:
    workers.server.after = "ignored"
    ids = workers.submitted([HOUR_S + n for n in range(64)])
    workers.foreign(300, HOUR_S)
    lists, retrieves = workers.poll_ended(ids)
    assert retrieves == 64
    assert lists <= 2 + 64 / 7


# Common due times


def test_batches_of_a_page_are_due_together(workers: ListWorkers) -> None:
    ids = workers.submitted([n / 10 for n in range(60)])
    workers.make_due(ids[:10])
    assert workers.poll_running(ids[:10]) == (1, 0)
    due_s = workers.due_in_s(ids)
    assert 0 < min(due_s) <= max(due_s) < min(due_s) + 1
    assert max(due_s) <= POLL_S


def test_batches_of_mixed_ages_stay_together(workers: ListWorkers) -> None:
    ages_s = [n**2 for n in range(80)]
    ids = workers.submitted(ages_s)
    for _ in range(3):
        workers.poll_running(ids)
        ticks = {round(due_s * 2 / POLL_S) for due_s in workers.due_in_s(ids)}
        assert len(ticks) <= 8, "each batch has a due time of its own"
        workers.poll_running(ids[::7])


def test_polls_of_many_calls_are_less_frequent(workers: ListWorkers) -> None:
    few = workers.submitted([1] * 90)
    workers.poll_running(few)
    assert max(workers.due_in_s(few)) <= POLL_S
    many = few + workers.submitted([2] * 910)
    assert workers.poll_running(many) == (10, 0)
    due_s = workers.due_in_s(many)
    assert min(due_s) > POLL_S
    assert max(due_s) <= 4 * POLL_S


def test_thousands_of_due_batches_are_one_poll(workers: ListWorkers) -> None:
    ids = workers.submitted([n / 100 for n in range(2_500)])
    workers.make_due(ids)
    [named] = workers.sweep()
    assert len(named) <= CLAIMED_JOBS
    lease_s = workers.runtime.settings.lease_s
    # The last batches are not due before the poll reaches them.
    assert min(workers.due_in_s(ids)) > lease_s + 15
    began_s = workers.runtime.store.run(records.time())
    assert workers.sweep() == []
    assert workers.poll_running(named) == (25, 0)
    assert min(workers.due_in_s(ids)) > POLL_S
    for job in workers.jobs(ids):
        assert job.checked_at
        assert job.checked_at.timestamp() > began_s
    assert workers.sweep() == []


def test_thousands_of_due_batches_do_not_delay_another_credential(workers: ListWorkers) -> None:
    many = workers.submitted([n / 100 for n in range(1_500)])
    few = workers.submitted([1, 2], credential=OTHER)
    workers.make_due([*many, *few])
    assert len(workers.sweep()) == 2
    lease_s = workers.runtime.settings.lease_s
    assert max(workers.due_in_s(few)) <= lease_s, "a lost message is noticed late"


# Late, repeated and long messages


def test_a_batch_that_is_due_again_during_a_sweep_is_polled(
    workers: ListWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = workers.submitted([60 + n / 100 for n in range(CLAIMED_JOBS)])
    few = workers.submitted([1, 2, 3], credential=OTHER)
    workers.make_due(many)
    messages: list[tuple[Any, ...]] = []
    monkeypatch.setattr(workers.sender, "send", lambda _, *args: messages.append(args))
    run_all = JobStore.run_all

    def run_all_after_a_poll(store: JobStore, given: Sequence[Command[Any]]) -> list[Any]:
        """Another poll observes the few before the sweep reads its first jobs, and they are due
        again."""
        patch.undo()
        workers.poll_running(few)
        workers.make_due(few)
        return run_all(store, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobStore, "run_all", run_all_after_a_poll)
        sweep(workers.runtime)
    [message] = [message for message in messages if set(message[0]) == set(few)]
    poll(workers.runtime, *message)
    assert max(workers.due_in_s(few)) <= POLL_S, "they are held by the sweep"


def test_a_batch_observed_since_it_was_due_is_not_polled(workers: ListWorkers) -> None:
    ids = workers.submitted([1, 2, 3])
    due_since_s = workers.runtime.store.run(records.time())
    poll(workers.runtime, ids[:2], due_since_s)
    assert workers.server.calls == (1, 0)
    poll(workers.runtime, ids, due_since_s)
    assert workers.server.calls == (1, 0), "a page has shown the third batch"
    poll(workers.runtime, ids, workers.runtime.store.run(records.time()))
    assert workers.server.calls == (2, 0)


def test_a_long_poll_continues_in_another_message(
    workers: ListWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.runtime = replace(workers.runtime, policy=Policy(longest_scan_s=0))
    ids = workers.submitted([n / 10 for n in range(250)])
    due_since_s = workers.runtime.store.run(records.time())
    messages: list[tuple[Any, ...]] = [(ids, due_since_s)]

    def send(step: Step, *args: Any) -> None:
        assert step is Step.POLL
        messages.append(args)

    monkeypatch.setattr(workers.sender, "send", send)
    for remaining, since_s, *cursor in messages:
        poll(workers.runtime, remaining, since_s, Cursor(*cursor))
    assert [len(message[0]) for message in messages] == [250, 150, 50]
    assert workers.server.calls == (3, 0)
    due_s = workers.due_in_s(ids)
    assert max(due_s) < min(due_s) + 1, "the parts of a poll are due at different times"


def test_a_long_poll_loses_nothing_when_the_broker_is_unavailable(
    workers: ListWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise QueueUnavailable("unavailable")

    workers.runtime = replace(workers.runtime, policy=Policy(longest_scan_s=0))
    monkeypatch.setattr(workers.sender, "send", fail)
    ids = workers.submitted([n / 10 for n in range(150)])
    workers.make_due(ids)
    assert workers.poll_running(ids) == (1, 0)
    monkeypatch.undo()
    assert sorted(workers.sweep()[0]) == sorted(ids[100:])


def test_many_jobs_wait_longer_for_a_busy_credential(workers: ListWorkers) -> None:
    ids = workers.submitted([1] * 500)
    workers.runtime.store.run(leases.acquire(f"poll:{CREDENTIAL}", "other", ttl_s=60))
    assert workers.poll_running(ids) == (0, 0)
    assert min(workers.due_in_s(ids)) > 3
