"""The history of a job, read from its record."""

from datetime import UTC, datetime

import pytest

from batchflow.jobs import Job
from batchflow.overview.job_view import Event, timeline
from batchflow.states import JobState


def job(history: str) -> Job:
    return Job.model_validate(
        {
            "id": "bf-" + "a" * 26,
            "kind": "upload",
            "state": "running",
            "spec": '{"kind": "upload", "credential": {}, "uri": "/in.jsonl"}',
            "created_at": "1767225600.000001",
            "updated_at": "1767225600.000001",
            "history": history,
        }
    )


def test_a_job_without_a_history_has_no_timeline() -> None:
    assert timeline(job("")) == ()


def test_each_line_is_a_transition_oldest_first() -> None:
    lines = (
        "1767225600.250\tqueued\t\tcreate\t",
        "1767225601.500\trunning\tin_progress\tpoll\tOpenAI works on it",
    )
    assert timeline(job("\n".join(lines))) == (
        Event(
            at=datetime(2026, 1, 1, 0, 0, 0, 250_000, UTC),
            state=JobState.QUEUED,
            openai_status="",
            source="create",
            message="",
        ),
        Event(
            at=datetime(2026, 1, 1, 0, 0, 1, 500_000, UTC),
            state=JobState.RUNNING,
            openai_status="in_progress",
            source="poll",
            message="OpenAI works on it",
        ),
    )


@pytest.mark.parametrize(
    "message",
    [
        "a\N{NEXT LINE}b\N{LINE SEPARATOR}c\N{PARAGRAPH SEPARATOR}d",
        "größer als 200 MB — İ 🙂",
        "<script>alert(1)</script>",
        "x" * 300 + "…",
    ],
)
def test_a_message_is_read_unchanged(message: str) -> None:
    (event,) = timeline(job(f"1767225600.000\tfailed\tfailed\tpoll\t{message}"))
    assert event.message == message


def test_an_event_is_iso_8601_for_programs() -> None:
    (event,) = timeline(job("1767225600.250\tqueued\t\tcreate\t"))
    assert event.model_dump(mode="json") == {
        "at": "2026-01-01T00:00:00.250000Z",
        "state": "queued",
        "openai_status": "",
        "source": "create",
        "message": "",
    }
