"""What polls ask of OpenAI, however many batches there are and wherever they stand in its list."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai
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
from batchflow.openai_client.client import PAGE, OpenAIApi
from batchflow.queue import QueueUnavailable, Step
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import JobStore, connect, keys, leases, records
from batchflow.store.command import Command
from tests.kit.job_requests import a_job_request
from tests.kit.steps import Notes

DAY_S = 86_400
CLAIMED_JOBS = Policy().claimed_jobs
HOUR_S = 3_600
CREDENTIAL, OTHER = (Credential(organization=name) for name in ("org-1", "org-2"))
POLL_S = 15


@dataclass
class OpenAIWithAList:
    """OpenAI, whose list has what a test puts into it."""

    #: Newest first; what is not in it can be retrieved all the same.
    batches: list[dict[str, Any]] = field(default_factory=list)
    unlisted: list[dict[str, Any]] = field(default_factory=list)
    #: How it answers a page behind a batch: as it should, as if nothing had been said, not at all.
    after: str = "taken"
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
        first = ids.index(after) + 1 if after and self.after == "taken" else 0
        page = self.batches[first : first + PAGE]
        more = first + PAGE < len(ids)
        return httpx2.Response(200, json={"object": "list", "data": page, "has_more": more})

    def made(self, name: str, age_s: float, **fields: Any) -> dict[str, Any]:
        """A batch, which is put into the list."""
        created_at = int(time.time() - age_s)
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
        """Pages and single batches that were asked for."""
        return self.lists, self.retrieves


@dataclass
class Workers:
    """Workers of one credential."""

    runtime: Runtime
    server: OpenAIWithAList
    notes: Notes

    def submitted(
        self,
        ages_s: Sequence[float],
        *,
        job_age_s: float = 0,
        credential: Credential = CREDENTIAL,
    ) -> list[str]:
        """Jobs whose batches were made so long ago, newest first; the jobs, longer ago."""
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
            batch = self.server.made(
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

    def strangers(self, count: int, since_s: float, until_s: float = 0) -> None:
        """Batches that are nobody's business, made evenly between two moments."""
        for number in range(count):
            age_s = until_s + (since_s - until_s) * number / count
            self.server.made(f"stranger_{number}_{since_s}", age_s)

    def poll(self, ids: Sequence[str]) -> tuple[int, int]:
        """Returns how many pages and how many single batches that takes. All have ended at OpenAI,
        and their jobs end by it."""
        for batch in [*self.server.batches, *self.server.unlisted]:
            batch["status"] = "failed"
        lists, retrieves = self.server.calls
        poll(self.runtime, list(ids))
        assert {job.state for job in self.jobs(ids)} == {JobState.FAILED}
        return self.server.lists - lists, self.server.retrieves - retrieves

    def look(self, ids: Sequence[str]) -> tuple[int, int]:
        """Returns how many pages and how many single batches it takes to poll what goes on."""
        lists, retrieves = self.server.calls
        poll(self.runtime, list(ids))
        return self.server.lists - lists, self.server.retrieves - retrieves

    def sweep(self) -> list[Any]:
        """Returns the jobs that a poll was asked for."""
        self.notes.sent.clear()
        sweep(self.runtime)
        return [about for step, about in self.notes.sent if step is Step.POLL]

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
def workers(settings: Callable[..., Settings], key_prefix: str) -> Iterator[Workers]:
    server, notes, chosen = OpenAIWithAList(), Notes(), settings(poll_interval_s=POLL_S)
    client = openai.OpenAI(
        api_key="sk-test",
        base_url="http://openai.test/v1",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(server)),
    )

    class Scripted(Runtime):
        def openai(self, credential: Credential) -> OpenAIApi:
            return OpenAIApi(client)

    store = connect(chosen)
    with store.redis, client:
        yield Workers(Scripted(chosen, store, notes), server, notes)


# Pages


def test_pages_tell_of_all_that_is_due(workers: Workers) -> None:
    assert workers.poll(workers.submitted([n / 10 for n in range(250)])) == (3, 0)


def test_pages_tell_of_those_among_as_many_others(workers: Workers) -> None:
    workers.strangers(500, HOUR_S)
    assert workers.poll(workers.submitted([HOUR_S * n / 500 for n in range(500)])) == (10, 0)


def test_old_ones_behind_thousands_of_others(workers: Workers) -> None:
    workers.strangers(3_000, HOUR_S)
    old = workers.submitted([HOUR_S + n for n in range(150)])
    assert workers.poll(old) == (3, 1)


def test_old_ones_far_apart_are_asked_for_one_by_one(workers: Workers) -> None:
    workers.strangers(3_000, HOUR_S)
    scattered = workers.submitted([HOUR_S * n / 10 for n in range(1, 10)])
    assert workers.poll(scattered) == (3, 9)


def test_what_is_together_is_found_behind_what_is_not(workers: Workers) -> None:
    workers.strangers(3_000, HOUR_S)
    scattered = workers.submitted([HOUR_S * n / 10 for n in range(1, 9)])
    together = workers.submitted([HOUR_S + n for n in range(120)])
    lists, retrieves = workers.poll(scattered + together)
    assert lists <= 5
    assert retrieves <= len(scattered) + 8


def test_two_crowds_with_others_between(workers: Workers) -> None:
    new = workers.submitted([n / 10 for n in range(150)])
    workers.strangers(1_000, HOUR_S, 60)
    old = workers.submitted([HOUR_S + n for n in range(150)])
    assert workers.poll(new + old) == (5, 1)


def test_made_in_the_same_second(workers: Workers) -> None:
    ids = workers.submitted([5] * 400)
    assert workers.poll(ids[200:]) == (3, 1)


def test_jobs_that_waited_for_capacity_are_looked_for_where_their_batches_are(
    workers: Workers,
) -> None:
    workers.strangers(1_000, HOUR_S)
    crowds = [HOUR_S / 2 + n for n in range(150)] + [HOUR_S + n for n in range(150)]
    ids = workers.submitted(crowds, job_age_s=DAY_S)
    lists, retrieves = workers.poll(ids[::-1])
    assert lists + retrieves <= 12


# What lists may be like


def test_one_that_the_list_does_not_show_is_asked_for(workers: Workers) -> None:
    ids = workers.submitted([n / 10 for n in range(250)])
    workers.server.unlisted.append(workers.server.batches.pop(120))
    assert workers.poll(ids) == (3, 1)


@pytest.mark.parametrize("after", ["ignored", "refused"])
def test_a_server_whose_list_does_not_go_on(workers: Workers, after: str) -> None:
    workers.server.after = after
    ids = workers.submitted([n / 10 for n in range(180)])
    lists, retrieves = workers.poll(ids)
    assert retrieves == 80
    assert lists <= 3 + 80 / 7


def test_a_list_costs_little_where_it_shows_nothing(workers: Workers) -> None:
    workers.server.after = "ignored"
    ids = workers.submitted([HOUR_S + n for n in range(64)])
    workers.strangers(300, HOUR_S)
    lists, retrieves = workers.poll(ids)
    assert retrieves == 64
    assert lists <= 2 + 64 / 7


# Together


def test_all_that_a_page_shows_is_due_together(workers: Workers) -> None:
    ids = workers.submitted([n / 10 for n in range(60)])
    workers.make_due(ids[:10])
    assert workers.look(ids[:10]) == (1, 0)
    due_s = workers.due_in_s(ids)
    assert 0 < min(due_s) <= max(due_s) < min(due_s) + 1
    assert max(due_s) <= POLL_S


def test_mixed_ages_stay_together(workers: Workers) -> None:
    ages_s = [n**2 for n in range(80)]
    ids = workers.submitted(ages_s)
    for _ in range(3):
        workers.look(ids)
        ticks = {round(due_s * 2 / POLL_S) for due_s in workers.due_in_s(ids)}
        assert len(ticks) <= 8, "each has its own time"
        workers.look(ids[::7])


def test_what_takes_many_calls_is_done_less_often(workers: Workers) -> None:
    few = workers.submitted([1] * 90)
    workers.look(few)
    assert max(workers.due_in_s(few)) <= POLL_S
    many = few + workers.submitted([2] * 910)
    assert workers.look(many) == (10, 0)
    due_s = workers.due_in_s(many)
    assert min(due_s) > POLL_S
    assert max(due_s) <= 4 * POLL_S


def test_thousands_that_are_due_are_one_poll(workers: Workers) -> None:
    ids = workers.submitted([n / 100 for n in range(2_500)])
    workers.make_due(ids)
    [named] = workers.sweep()
    assert len(named) <= CLAIMED_JOBS
    lease_s = workers.runtime.settings.lease_s
    assert min(workers.due_in_s(ids)) > lease_s + 15, "the poll comes to the last ones late"
    began_s = workers.runtime.store.run(records.time())
    assert workers.sweep() == []
    assert workers.look(named) == (25, 0)
    assert min(workers.due_in_s(ids)) > POLL_S
    for job in workers.jobs(ids):
        assert job.checked_at
        assert job.checked_at.timestamp() > began_s
    assert workers.sweep() == []


def test_thousands_that_are_due_hold_up_no_other_credential(workers: Workers) -> None:
    crowd = workers.submitted([n / 100 for n in range(1_500)])
    few = workers.submitted([1, 2], credential=OTHER)
    workers.make_due([*crowd, *few])
    assert len(workers.sweep()) == 2
    lease_s = workers.runtime.settings.lease_s
    assert max(workers.due_in_s(few)) <= lease_s, "a lost message is noticed late"


# Messages that are late, repeated or too many


def test_what_is_due_again_while_a_sweep_goes_on_is_asked_for(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = workers.submitted([60 + n / 100 for n in range(CLAIMED_JOBS)])
    few = workers.submitted([1, 2, 3], credential=OTHER)
    workers.make_due(crowd)
    messages: list[tuple[Any, ...]] = []
    monkeypatch.setattr(workers.notes, "send", lambda _, *args: messages.append(args))
    run_all = JobStore.run_all

    def after_a_poll(store: JobStore, given: Sequence[Command[Any]]) -> list[Any]:
        """Before the sweep looks at what it took first, another poll sees the few, and they are
        due once more."""
        looking.undo()
        workers.look(few)
        workers.make_due(few)
        return run_all(store, given)

    with pytest.MonkeyPatch.context() as looking:
        looking.setattr(JobStore, "run_all", after_a_poll)
        sweep(workers.runtime)
    [message] = [message for message in messages if set(message[0]) == set(few)]
    poll(workers.runtime, *message)
    assert max(workers.due_in_s(few)) <= POLL_S, "they wait for the end of the sweep's hold"


def test_what_was_seen_since_it_was_due_is_not_asked_for_again(workers: Workers) -> None:
    ids = workers.submitted([1, 2, 3])
    due_since_s = workers.runtime.store.run(records.time())
    poll(workers.runtime, ids[:2], due_since_s)
    assert workers.server.calls == (1, 0)
    poll(workers.runtime, ids, due_since_s)
    assert workers.server.calls == (1, 0), "a page had shown the third one"
    poll(workers.runtime, ids, workers.runtime.store.run(records.time()))
    assert workers.server.calls == (2, 0)


def test_a_long_poll_lets_others_have_its_worker(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.runtime = replace(workers.runtime, policy=Policy(longest_scan_s=0))
    ids = workers.submitted([n / 10 for n in range(250)])
    due_since_s = workers.runtime.store.run(records.time())
    messages: list[tuple[Any, ...]] = [(ids, due_since_s)]

    def send(step: Step, *args: Any) -> None:
        assert step is Step.POLL
        messages.append(args)

    monkeypatch.setattr(workers.notes, "send", send)
    for left, since_s, *begin in messages:
        poll(workers.runtime, left, since_s, Cursor(*begin))
    assert [len(message[0]) for message in messages] == [250, 150, 50]
    assert workers.server.calls == (3, 0)
    due_s = workers.due_in_s(ids)
    assert max(due_s) < min(due_s) + 1, "parts of a poll are still due together"


def test_a_long_poll_whose_rest_the_broker_does_not_take_loses_nothing(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise QueueUnavailable("away")

    workers.runtime = replace(workers.runtime, policy=Policy(longest_scan_s=0))
    monkeypatch.setattr(workers.notes, "send", away)
    ids = workers.submitted([n / 10 for n in range(150)])
    workers.make_due(ids)
    assert workers.look(ids) == (1, 0)
    monkeypatch.undo()
    assert sorted(workers.sweep()[0]) == sorted(ids[100:])


def test_many_that_find_another_poll_at_work_wait_longer(workers: Workers) -> None:
    ids = workers.submitted([1] * 500)
    workers.runtime.store.run(leases.acquire(f"poll:{CREDENTIAL}", "other", ttl_s=60))
    assert workers.look(ids) == (0, 0)
    assert min(workers.due_in_s(ids)) > 3
