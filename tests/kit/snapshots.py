"""Snapshots of a fleet for tests."""

from typing import Any

from batchflow.overview.snapshot import FleetSnapshot


def a_snapshot(**fields: Any) -> FleetSnapshot:
    """A fleet in which nothing happened yet, except for ``fields``. Its time is 10,000 s."""
    empty: dict[str, Any] = {
        "now_s": 10_000.0,
        "jobs": {},
        "counters": {},
        "last_seen_s": {},
        "recording_since_s": None,
        "oldest_live": {},
        "first_due_s": None,
        "due_times": 0,
        "live_workers": [],
        "backoffs": {},
        "quota_queues": {},
        "ended_recently": {},
        "uncollected": 0,
        "oldest_uncollected": None,
        "unreadable": 0,
    }
    return FleetSnapshot(**empty | fields)
