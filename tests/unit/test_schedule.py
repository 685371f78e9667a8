"""When batches are asked about, and what that comes to in an hour: by a clock that tests wind."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from batchflow_workers.policy import Policy
from batchflow_workers.polling.scan import Cursor, Scan
from batchflow_workers.schedule import due_in_s, interval_factor, until_tick_s
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
DAY_S, MINUTE_S = 86_400, 60
#: The old plugin asks twice a minute about each batch.
OLD_CALLS = 2
#: How long a call takes, and writing what it shows.
CALL_S = 0.3


# Ticks

waits = st.floats(min_value=0.05, max_value=86_400)
times = st.floats(min_value=NOW_S, max_value=NOW_S + DAY_S)


@given(wait_s=waits, interval_s=waits, now_s=times)
@hypothesis_settings(deadline=None)
def test_a_tick_is_in_time_and_not_at_once(wait_s: float, interval_s: float, now_s: float) -> None:
    assert wait_s / 5 < until_tick_s(wait_s, interval_s, CREDENTIAL, now_s) <= wait_s


@given(wait_s=st.floats(min_value=15, max_value=600), now_s=times, late=st.floats(0, 1))
@hypothesis_settings(deadline=None)
def test_whoever_waits_as_long_soon_comes_together(
    wait_s: float, now_s: float, late: float
) -> None:
    def due_s(since_s: float) -> float:
        due_s = since_s
        while due_s < now_s + 4 * wait_s:
            # A sweep finds it a moment later.
            due_s += 0.5 + until_tick_s(wait_s, 15, CREDENTIAL, due_s + 0.5)
        return due_s

    apart_s = due_s(now_s) - due_s(now_s + wait_s * late)
    ticks = apart_s / (15 * 2 ** math.floor(math.log2(wait_s / 15)))
    assert ticks == pytest.approx(round(ticks), abs=1e-4)


@pytest.mark.parametrize(
    ("calls", "intervals"), [(0.5, 1), (1, 1), (2, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 16)]
)
def test_four_times_the_calls_are_made_half_as_often(calls: float, intervals: int) -> None:
    assert interval_factor(calls) == intervals


# An hour


class ResultsAudit:
    """What OpenAI has of an organization, newest first; who asks is counted."""

    def __init__(self, ages_s: Iterable[float], lasts_s: float, strangers: int) -> None:
        """Ours are of these ages, negative for one that is yet to be made, and end after so long;
        between two of them there are so many that are nobody's business."""
        self.now_s = NOW_S
        self.lasts_s = lasts_s
        ours = sorted(ages_s)
        self.batches = [
            a_batch(f"{'foreign' if of else 'ours'}-{number}-{of}", int(NOW_S - age_s))
            for number, age_s in enumerate(ours)
            for of in range(strangers, -1, -1)
        ]
        self.ours = [batch for batch in self.batches if batch.id.startswith("ours")]
        self.place = {batch.id: n for n, batch in enumerate(self.batches)}
        self.calls = 0

    def has_ended(self, batch: Batch) -> bool:
        return batch.created_at + self.lasts_s < self.now_s

    def batch_pages(self, *, after: str | None = None) -> Iterator[list[Batch]]:
        made = bisect_left(self.batches, -self.now_s, key=lambda batch: -batch.created_at)
        first = self.place[after] + 1 if after else made
        for start in range(first, len(self.batches), PAGE):
            self.calls += 1
            yield self.batches[start : start + PAGE]

    def retrieve(self, batch_id: str, _: object) -> Batch:
        self.calls += 1
        return self.batches[self.place[batch_id]]


def a_batch(batch_id: str, created_at: int) -> Batch:
    return Batch.construct(id=batch_id, created_at=created_at, status="in_progress")


class Polling:
    """A credential's batches are polled, with sweep and poll as workers do them."""

    def __init__(self, account: ResultsAudit, *, webhooks_active: bool = False) -> None:
        self.account = account
        self.webhooks_active = webhooks_active
        self.unmade = [b for b in account.ours if b.created_at > NOW_S]
        self.live: dict[str, Batch] = {}
        self.checked_at: dict[str, float] = {}
        self.due_at: dict[str, float] = {}
        self.ages_s: list[float] = []
        for batch in account.ours:
            if batch.created_at <= NOW_S and not account.has_ended(batch):
                self._submitted(batch)

    def go_on(self, minutes: float) -> float:
        """Returns how many calls a minute were made."""
        began_s, began = self.account.now_s, self.account.calls
        self.ages_s.clear()
        while self.account.now_s < began_s + minutes * MINUTE_S:
            self.account.now_s += 1
            while self.unmade and self.unmade[-1].created_at <= self.account.now_s:
                self._submitted(self.unmade.pop())
            if min(self.due_at.values()) <= self.account.now_s:
                self._poll()
        return (self.account.calls - began) / minutes

    def _submitted(self, batch: Batch) -> None:
        self.live[batch.id] = batch
        self.checked_at[batch.id] = self.account.now_s
        self._see(batch)

    def _poll(self) -> None:
        due = [b for i, b in self.live.items() if self.due_at[i] <= self.account.now_s]
        due.sort(key=lambda batch: -batch.created_at)
        wanted: dict[str, Any] = {batch.id: batch for batch in due}
        api = cast(OpenAIApi, self.account)
        scan = Scan(api, wanted, self.account.retrieve, Cursor(), POLICY)
        for batches in scan:
            self.account.now_s += CALL_S
            for batch in batches:
                wanted.pop(batch.id, None)
            for batch in batches:
                if batch.id in self.live:
                    self._see(batch, scan.total_calls)

    def _see(self, batch: Batch, calls: float = 1) -> None:
        now_s = self.account.now_s
        self.ages_s.append(now_s - self.checked_at[batch.id])
        self.checked_at[batch.id] = now_s
        if self.account.has_ended(batch):
            del self.live[batch.id], self.due_at[batch.id]
            return
        self.due_at[batch.id] = now_s + due_in_s(
            batch,
            CREDENTIAL,
            poll_interval_s=SETTINGS.poll_interval_s,
            policy=POLICY,
            now_s=now_s,
            webhooks_active=self.webhooks_active,
            calls=calls,
        )


def evenly(count: int, since_s: float, until_s: float = 0) -> list[float]:
    return [until_s + (since_s - until_s) * n / count for n in range(count)]


FOR_EVER = 10.0 * DAY_S
HOUR_S = 60 * MINUTE_S


@pytest.mark.parametrize(
    ("ages_s", "lasts_s", "strangers", "oldest_s"),
    [
        pytest.param([0.0] * 1_000, FOR_EVER, 0, 120, id="all at once"),
        pytest.param(evenly(1_000, 600), FOR_EVER, 1, 120, id="within ten minutes"),
        pytest.param(evenly(1_000, DAY_S), FOR_EVER, 1, 120, id="within a day"),
        pytest.param(evenly(1_000, DAY_S), FOR_EVER, 2, 120, id="few among many"),
        pytest.param(
            evenly(2_000, HOUR_S, -HOUR_S), HOUR_S, 1, 120, id="new ones come, old ones end"
        ),
        pytest.param([0.0] * 10_000, FOR_EVER, 0, 240, id="many at once"),
        pytest.param(evenly(10_000, DAY_S), FOR_EVER, 1, 240, id="many within a day"),
    ],
)
def test_polling_makes_a_hundredth_of_the_old_plugins_calls(
    monkeypatch: pytest.MonkeyPatch,
    ages_s: list[float],
    lasts_s: float,
    strangers: int,
    oldest_s: float,
) -> None:
    polling = Polling(ResultsAudit(ages_s, lasts_s, strangers))
    # At first all are asked about once.
    polling.go_on(5)
    a_minute = [polling.go_on(10) for _ in range(4)]
    assert max(a_minute) <= OLD_CALLS * len(polling.live) / 100
    # What is due is asked about in a walk that takes its time.
    took_s = CALL_S * max(a_minute) * oldest_s / MINUTE_S
    assert max(polling.ages_s) <= oldest_s + took_s + 2
