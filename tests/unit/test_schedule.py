"""When batches are polled, and how many calls per minute that takes, on a simulated clock."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from batchflow_workers.policy import Policy
from batchflow_workers.polling.scan import Cursor, Scan
from batchflow_workers.schedule import Conditions, due_in_s, interval_factor, until_tick_s
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openai.types import Batch

from batchflow.openai_client.client import PAGE, OpenAIApi
from batchflow.settings import Settings

SETTINGS = Settings()
POLICY = Policy()
CREDENTIAL = "KEY@org-1"
NOW_S = 1_800_000_000.0
DAY_S, HOUR_S, MINUTE_S = 86_400, 3_600, 60
#: The old plugin's calls per batch and minute.
OLD_CALLS = 2
#: The duration of a call, including the update of the records.
CALL_S = 0.3


# Ticks

waits = st.floats(min_value=0.05, max_value=86_400)
times = st.floats(min_value=NOW_S, max_value=NOW_S + DAY_S)


@given(wait_s=waits, interval_s=waits, now_s=times)
@hypothesis_settings(deadline=None)
def test_the_next_tick_is_within_the_wait_and_not_immediate(
    wait_s: float, interval_s: float, now_s: float
) -> None:
    assert wait_s / 5 < until_tick_s(wait_s, interval_s, CREDENTIAL, now_s) <= wait_s


@given(wait_s=st.floats(min_value=15, max_value=600), now_s=times, late=st.floats(0, 1))
@hypothesis_settings(deadline=None)
def test_batches_with_equal_waits_are_soon_due_at_common_ticks(
    wait_s: float, now_s: float, late: float
) -> None:
    def due_s(since_s: float) -> float:
        due_s = since_s
        while due_s < now_s + 4 * wait_s:
            # A sweep finds the batch half a second after it is due.
            due_s += 0.5 + until_tick_s(wait_s, 15, CREDENTIAL, due_s + 0.5)
        return due_s

    apart_s = due_s(now_s) - due_s(now_s + wait_s * late)
    ticks = apart_s / (15 * 2 ** math.floor(math.log2(wait_s / 15)))
    assert ticks == pytest.approx(round(ticks), abs=1e-4)


@pytest.mark.parametrize(
    ("calls", "intervals"), [(0.5, 1), (1, 1), (2, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 16)]
)
def test_polls_of_four_times_the_calls_are_half_as_frequent(calls: float, intervals: int) -> None:
    assert interval_factor(calls) == intervals


# Calls per minute


class BatchList:
    """OpenAI's list of an organization's batches, newest first, which counts its calls."""

    def __init__(self, ages_s: Iterable[float], lifetime_s: float, foreign: int) -> None:
        """``ages_s`` are the ages of our batches, negative for those that are created later.

        ``foreign`` batches of no job follow each of them.
        """
        self.now_s = NOW_S
        self.lifetime_s = lifetime_s
        self.batches = [
            a_batch(f"{'foreign' if of else 'ours'}-{number}-{of}", int(NOW_S - age_s))
            for number, age_s in enumerate(sorted(ages_s))
            for of in range(foreign, -1, -1)
        ]
        self.ours = [batch for batch in self.batches if batch.id.startswith("ours")]
        self.position = {batch.id: n for n, batch in enumerate(self.batches)}
        self.calls = 0

    def has_ended(self, batch: Batch) -> bool:
        return batch.created_at + self.lifetime_s < self.now_s

    def batch_pages(self, *, after: str | None = None) -> Iterator[list[Batch]]:
        newest = bisect_left(self.batches, -self.now_s, key=lambda batch: -batch.created_at)
        first = self.position[after] + 1 if after else newest
        for start in range(first, len(self.batches), PAGE):
            self.calls += 1
            yield self.batches[start : start + PAGE]

    def retrieve(self, batch_id: str, _: object) -> Batch:
        self.calls += 1
        return self.batches[self.position[batch_id]]


def a_batch(batch_id: str, created_at: int) -> Batch:
    # Tens of thousands of real ones would take seconds to make.
    batch = SimpleNamespace(id=batch_id, created_at=created_at, status="in_progress")
    return cast(Batch, batch)


class Polling:
    """Polls our batches in that list as a worker does."""

    def __init__(self, batch_list: BatchList) -> None:
        self.list = batch_list
        self.uncreated = [batch for batch in batch_list.ours if batch.created_at > NOW_S]
        self.live: dict[str, Batch] = {}
        self.checked_at: dict[str, float] = {}
        self.due_at: dict[str, float] = {}
        #: Not later than the first due time.
        self.next_due_at = math.inf
        #: How old the status of a batch was when it was observed again.
        self.status_ages_s: list[float] = []
        for batch in batch_list.ours:
            if batch.created_at <= NOW_S and not batch_list.has_ended(batch):
                self._submitted(batch)

    def calls_per_minute(self, minutes: float) -> float:
        """Poll for this time; returns the calls per minute."""
        began_s, began = self.list.now_s, self.list.calls
        self.status_ages_s.clear()
        while self.list.now_s < began_s + minutes * MINUTE_S:
            self.list.now_s += 1
            while self.uncreated and self.uncreated[-1].created_at <= self.list.now_s:
                self._submitted(self.uncreated.pop())
            if self.next_due_at <= self.list.now_s:
                self._poll()
                self.next_due_at = min(self.due_at.values())
        return (self.list.calls - began) / minutes

    def _submitted(self, batch: Batch) -> None:
        self.live[batch.id] = batch
        self.checked_at[batch.id] = self.list.now_s
        self._observe(batch)

    def _poll(self) -> None:
        due = [b for i, b in self.live.items() if self.due_at[i] <= self.list.now_s]
        due.sort(key=attrgetter("created_at"), reverse=True)
        wanted: dict[str, Any] = {batch.id: batch for batch in due}
        api = cast(OpenAIApi, self.list)
        scan = Scan(api, wanted, self.list.retrieve, Cursor(), POLICY)
        for batches in scan:
            self.list.now_s += CALL_S
            for batch in batches:
                wanted.pop(batch.id, None)
            for batch in batches:
                if batch.id in self.live:
                    self._observe(batch, scan.total_calls)

    def _observe(self, batch: Batch, calls: float = 1) -> None:
        now_s = self.list.now_s
        self.status_ages_s.append(now_s - self.checked_at[batch.id])
        self.checked_at[batch.id] = now_s
        if self.list.has_ended(batch):
            del self.live[batch.id], self.due_at[batch.id]
            return
        conditions = Conditions(SETTINGS, POLICY, now_s, calls=calls)
        due_at = now_s + due_in_s(batch, CREDENTIAL, conditions)
        self.due_at[batch.id] = due_at
        self.next_due_at = min(self.next_due_at, due_at)


def evenly(count: int, since_s: float, until_s: float = 0) -> list[float]:
    return [until_s + (since_s - until_s) * n / count for n in range(count)]


ENDLESS_S = 10.0 * DAY_S


@pytest.mark.parametrize(
    ("ages_s", "lifetime_s", "foreign", "oldest_s"),
    [
        pytest.param([0.0] * 1_000, ENDLESS_S, 0, 120, id="all at once"),
        pytest.param(evenly(1_000, 600), ENDLESS_S, 1, 120, id="within ten minutes"),
        pytest.param(evenly(1_000, DAY_S), ENDLESS_S, 1, 120, id="within a day"),
        pytest.param(evenly(1_000, DAY_S), ENDLESS_S, 2, 120, id="a third of all batches"),
        pytest.param(
            evenly(2_000, HOUR_S, -HOUR_S), HOUR_S, 1, 120, id="some begin while others end"
        ),
        pytest.param([0.0] * 10_000, ENDLESS_S, 0, 240, id="many at once"),
        pytest.param(evenly(10_000, DAY_S), ENDLESS_S, 1, 240, id="many within a day"),
    ],
)
def test_polling_takes_a_hundredth_of_the_old_plugins_calls(
    ages_s: list[float], lifetime_s: float, foreign: int, oldest_s: float
) -> None:
    polling = Polling(BatchList(ages_s, lifetime_s, foreign))
    # At first, all batches are polled once.
    polling.calls_per_minute(5)
    most_calls = max(polling.calls_per_minute(10) for _ in range(4))
    assert most_calls <= OLD_CALLS * len(polling.live) / 100
    # A scan of all due batches takes this time, in which statuses get older.
    scan_s = CALL_S * most_calls * oldest_s / MINUTE_S
    assert max(polling.status_ages_s) <= oldest_s + scan_s + 2
