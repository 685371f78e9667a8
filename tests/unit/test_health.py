"""The health policy: when the fleet needs attention."""

import pytest

from batchflow.overview.health import (
    beat_has_stopped,
    job_is_overdue,
    polls_have_stopped,
    queues_without_worker,
    result_is_uncollected,
    worker_is_alive,
)
from batchflow.queue import Queue


@pytest.mark.parametrize(
    ("age_s", "interval_s", "stopped"),
    [(None, 1, True), (60, 1, False), (61, 1, True), (300, 60, False), (301, 60, True)],
)
def test_beat_has_stopped(age_s: float | None, interval_s: float, stopped: bool) -> None:
    assert beat_has_stopped(age_s, interval_s) is stopped


@pytest.mark.parametrize(
    ("lag_s", "interval_s", "overdue"),
    [(0, 1, False), (60, 1, False), (61, 1, True), (600, 60, False), (601, 60, True)],
)
def test_a_job_is_overdue(lag_s: float, interval_s: float, overdue: bool) -> None:
    assert job_is_overdue(lag_s, interval_s) is overdue


@pytest.mark.parametrize(
    ("unpolled_s", "interval_s", "stopped"),
    [(None, 15, False), (120, 1, False), (121, 1, True), (750, 15, False), (751, 15, True)],
)
def test_polls_have_stopped(unpolled_s: float | None, interval_s: float, stopped: bool) -> None:
    assert polls_have_stopped(unpolled_s, interval_s) is stopped


def test_a_worker_without_a_heartbeat_is_dead_after_a_minute() -> None:
    assert worker_is_alive(seen_s=100, now_s=159)
    assert not worker_is_alive(seen_s=100, now_s=160)


@pytest.mark.parametrize(("ended_s", "uncollected"), [(None, False), (401, False), (400, True)])
def test_a_result_is_uncollected_ten_minutes_after_the_end(
    ended_s: float | None, uncollected: bool
) -> None:
    assert result_is_uncollected(ended_s, now_s=1_000) is uncollected


def test_queues_without_a_worker() -> None:
    assert queues_without_worker({}) == list(Queue)
    assert queues_without_worker({"submit": 1, "poll": 0, "another": 3}) == ["poll", "files"]
