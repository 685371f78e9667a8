"""Durations, numbers and names as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from batchflow.overview import formatting
from batchflow.overview.untrusted_text import one_line

NOW = datetime(2026, 7, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "measured", "age"),
    [
        (-5, "0 s", "0 s"),
        (8.44, "8.4 s", "8 s"),
        (60, "1 min", "1 min"),
        (200, "3 min 20 s", "3 min"),
        (3_600, "1 h", "1 h"),
        (86_340, "23 h 59 min", "23 h 59 min"),
        (100_000, "1 d 3 h", "1 d 3 h"),
        (400 * 86_400, "400 d", "400 d"),
    ],
)
def test_a_duration(seconds: float, measured: str, age: str) -> None:
    assert formatting.duration(seconds) == measured
    assert formatting.ago(NOW - timedelta(seconds=seconds), NOW) == f"{age} ago"


def test_the_time_left() -> None:
    assert formatting.left(NOW + timedelta(hours=2), NOW) == "2 h left"
    assert formatting.left(NOW, NOW) == "overdue"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (12_345, "12.3 k"),
        (1_234_567, "1.2 M"),
        (3 * 10**9, "3.0 B"),
        (10**12, "1.0 T"),
    ],
)
def test_a_rounded_number(value: int, shown: str) -> None:
    assert formatting.short_number(value) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 Bytes"), (1, "1 Byte"), (999, "999 Bytes"), (1_000, "1.0 kB"), (34_560_000, "34.6 MB")],
)
def test_a_size(size_bytes: int, shown: str) -> None:
    assert formatting.size(size_bytes) == shown


def test_only_all_is_100_percent() -> None:
    assert formatting.percent(49_999, 50_000) == "99%"
    assert formatting.percent(50_000, 50_000) == "100%"


def test_a_short_id_keeps_the_generation() -> None:
    assert formatting.short_id("bf-mctgn4lcdvhclm2p4qc7gkxbae") == "bf-mctgn4lc"
    assert formatting.short_id("bf-mctgn4lcdvhclm2p4qc7gkxbae-12") == "bf-mctgn4lc…-12"


@pytest.mark.parametrize(
    ("execution", "name", "location"),
    [
        ("shop/production/a7f3/n0", "a7f3", "shop · production · n0"),
        ("shop/production/a7f3", "a7f3", "shop · production"),
        ("odd", "odd", "odd"),
        ("", "", ""),
    ],
)
def test_an_execution(execution: str, name: str, location: str) -> None:
    assert formatting.execution_name(execution) == name
    assert formatting.execution_location(execution) == location


def test_a_long_message_is_cut_and_one_line() -> None:
    assert one_line(" a\n b\t c ", 300) == "a b c"
    cut = one_line("x" * 5_000, 300)
    assert len(cut) < 500
    assert cut.endswith("…")
