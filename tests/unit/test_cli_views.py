"""What people and programs get to read."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from batchflow.cli import job_views, text, watch_screen
from batchflow.cli.checks.check import CheckResult, Level
from batchflow.cli.checks.run_checks import Section
from batchflow.cli.doctor import view as findings_of
from batchflow.cli.output_files import keep
from batchflow.cli.results_audit import ResultsAudit
from batchflow.cli.run_progress import Lines, Standing, make_display, standing
from batchflow.cli.run_summary import Summary
from batchflow.jobs import Job
from batchflow.overview.cancellation import Cancellation
from batchflow.overview.summary import Summary as Fleet
from batchflow.requests.results import RequestError
from batchflow.states import JobKind, JobState
from batchflow.store.records import CancelResult

NOW_S = 1_800_000_000.0
SPEC = '{"kind": "batch", "credential": {}, "input_file_id": "file-1", "config": {}}'


def _job(**fields: object) -> Job:
    record = {
        "id": "bf-" + "a" * 26,
        "kind": "batch",
        "state": "running",
        "spec": SPEC,
        "created_at": str(NOW_S - 200),
        "updated_at": str(NOW_S - 5),
        "credential": "FLYTE_OPENAI_API_KEY",
    }
    return Job.model_validate(record | fields)


def _summary(account: ResultsAudit) -> Summary:
    return Summary(
        account=account,
        usage={"input_tokens": 1000, "output_tokens": 234, "total_tokens": 1234},
        model="gpt-4o-mini",
        endpoint="/v1/chat/completions",
        job_id="bf-" + "a" * 26,
        batch_id="batch_1",
        duration_s=12.34,
        emulated=True,
        output_file=Path("results/output.jsonl"),
        error_file=None,
    )


def test_a_summary_for_people_says_what_came_of_the_requests() -> None:
    account = ResultsAudit(3, 1, 1, 1, 1, 0, (RequestError(400, "bad", "No\x1b[2J.", 1),))
    view = _summary(account).view().plain
    assert "3: 1 answered, 1 failed, 1 unaccounted for, 1 duplicate\n" in view
    assert "1 x 400 bad: No\N{REPLACEMENT CHARACTER}[2J." in view
    assert "1,234 (1,000 in, 234 out)" in view
    assert "batch_1 (emulated)" in view
    assert "results/output.jsonl" in view
    assert "\x1b" not in view


def test_a_summary_names_few_kinds_of_errors_and_counts_the_others() -> None:
    errors = tuple(RequestError(400, f"code{n}", "", 2) for n in range(8))
    view = _summary(ResultsAudit(16, 0, 16, 0, 0, 0, errors)).view().plain
    assert "code4" in view
    assert "code5" not in view
    assert "6 x other errors" in view


def test_a_summary_for_programs_is_json() -> None:
    account = ResultsAudit(1, 0, 1, 0, 0, 0, (RequestError(400, "bad", "No.", 1),))
    data = json.loads(json.dumps(_summary(account).data()))
    assert data["tokens"] == {"input": 1000, "output": 234, "total": 1234}
    assert data["errors"] == [{"status": 400, "code": "bad", "message": "No.", "count": 1}]
    assert data["error_file"] is None
    assert data["duration_s"] == 12.3


def test_details_of_a_job() -> None:
    job = _job(batch_id="batch_1", total=10, completed=3, failed=1, message="one\ntwo \x1b[1m")
    view = job_views.details(job, NOW_S, public_url=None).plain
    assert "requests     3 answered and 1 failed of 10\n" in view
    assert "(3 min ago)" in view
    assert "message      one\n             two" in view
    assert "\x1b" not in view
    assert "attempt" not in view


def test_details_say_when_it_expires_what_it_cost_and_where_its_page_is() -> None:
    live = _job(expires_at=str(NOW_S + 7_500))
    view = job_views.details(live, NOW_S, public_url="https://batchflow.example.com").plain
    assert "(2 h 5 min left)" in view
    assert f"https://batchflow.example.com/jobs/{live.id}" in view
    ended = _job(
        state="succeeded",
        expires_at=str(NOW_S + 7_500),
        input_tokens=1_000,
        output_tokens=234,
        top_error="2 x 400 bad: No.",
    )
    view = job_views.details(ended, NOW_S, public_url=None).plain
    assert "left" not in view
    assert "1,234 (1,000 in, 234 out)" in view
    assert "2 x 400 bad: No." in view


def test_details_end_with_the_timeline() -> None:
    history = (
        f"{NOW_S - 200}\tqueued\t\tcreate\t\n{NOW_S - 5}\trunning\tin_progress\tpoll\tWhy\x1b[2J"
    )
    lines = job_views.details(_job(history=history), NOW_S, public_url=None).plain.splitlines()
    assert lines[-3] == ""
    assert lines[-2].split()[2:] == ["queued", "create"]
    assert lines[-1].split()[2:] == [
        "running",
        "in_progress",
        "poll",
        "Why\N{REPLACEMENT CHARACTER}[2J",
    ]


def test_a_table_has_a_line_for_each_job() -> None:
    jobs = [_job(message="[red]text[/red]"), _job(state="failed", total=5, completed=5)]
    lines = job_views.table(jobs, NOW_S).plain.splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("3 min ago  [red]text[/red]")
    assert lines[2].endswith("5/5   5 s ago")


def _fleet(**numbers: object) -> Fleet:
    told = {
        "at": NOW_S,
        "counts": {},
        "running": 2,
        "queued": 1,
        "waits": [],
        "succeeded_last_hour": 5,
        "failed_last_hour": 1,
        "input_tokens": 0,
        "output_tokens": 0,
        "since": None,
        "oldest_batch": None,
        "oldest_batch_since": None,
        "polled_at": NOW_S - 3,
        "swept_at": None,
        "webhook_at": None,
        "workers": {"poll": 2},
    }
    return Fleet.model_validate(told | numbers)


def _screen(seen: watch_screen.Seen | None, trouble: str = "", *, width: int = 120) -> list[str]:
    console = Console(width=width, height=10, record=True, file=io.StringIO())
    console.print(watch_screen.frame(seen, trouble, width=width, height=10))
    return console.export_text().splitlines()


def test_a_screen_has_numbers_and_as_many_jobs_as_there_is_room_for() -> None:
    job = _job(total=10, completed=4, message="why\x1b[2J", expires_at=str(NOW_S + 60))
    lines = _screen(watch_screen.Seen(_fleet(), [job] * 30))
    assert len(lines) == 10
    assert "2 running  1 queued  last hour: 5 succeeded, 1 failed" in lines[0]
    assert "submit 0, poll 2, files 0" in lines[1]
    assert "polled 3 s ago" in lines[1]
    assert "webhook never" in lines[1]
    assert job.id in lines[4]
    assert "4/10" in lines[4]
    assert "1 min 0 s" in lines[4]
    assert "why\N{REPLACEMENT CHARACTER}[2J" in lines[4]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_screen_is_as_wide_as_the_terminal(width: int) -> None:
    waits = [{"reason": "openai", "what": "key", "jobs": None, "message": "m" * 300, "until": None}]
    lines = _screen(
        watch_screen.Seen(_fleet(waits=waits), [_job(message="long " * 60)]), width=width
    )
    assert len(lines) == 6
    assert all(len(line) <= width for line in lines)
    assert "running" in lines[-1]


def test_a_screen_says_that_it_is_stale() -> None:
    trouble = "Redis can't be reached: refused."
    assert _screen(None, trouble)[0].startswith(f"{trouble} Trying again.")
    lines = _screen(watch_screen.Seen(_fleet(), [_job()]), trouble)
    assert lines[0].startswith(trouble)
    assert "bf-" in lines[-1]


@pytest.mark.parametrize("width", [80, 100, None])
def test_findings_are_aligned_and_as_wide_as_the_terminal(width: int | None) -> None:
    words = "seen " * 30
    findings = (
        CheckResult(Level.PROBLEM, "broker", words, "Do something about it, soon. " * 5),
        CheckResult(Level.OK, "a longer name", "fine\x1b[2J"),
    )
    lines = findings_of([Section("Celery", findings)], width).plain.splitlines()
    assert lines[0] == "Celery"
    assert lines[1].startswith("  problem  broker         seen seen")
    assert lines[-1] == "  ok       a longer name  fine\N{REPLACEMENT CHARACTER}[2J"
    assert all(line.startswith(" " * 26) for line in lines[2:-1])
    if width:
        assert max(map(len, lines)) <= width
    else:
        assert len(lines) == 4


def test_counts() -> None:
    counts = {(JobKind.BATCH, JobState.RUNNING): 2, (JobKind.UPLOAD, JobState.RUNNING): 1}
    assert job_views.counts_line(counts, matching=True) == "3 jobs in all: 3 running."
    assert job_views.counts_line(counts, matching=False).startswith("No job matches.")
    assert job_views.counts_line({}, matching=False) == "There are no jobs."


@pytest.mark.parametrize(
    ("outcome", "delayed", "expected"),
    [
        (CancelResult.CANCELLED, False, "Cancelled bf-"),
        (CancelResult.ENDED, False, "had ended already: running"),
        (CancelResult.REQUESTED, False, "A worker cancels"),
        (CancelResult.REQUESTED, True, "Recorded that"),
    ],
)
def test_what_a_wish_to_cancel_comes_to(
    outcome: CancelResult, delayed: bool, expected: str
) -> None:
    assert expected in job_views.cancelled(Cancellation(outcome, delayed, _job()))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(8.44, "8.4 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min"), (273_600, "3 d 4 h")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_how_long_ago() -> None:
    moment = datetime.fromtimestamp(NOW_S, UTC)
    assert text.ago(moment, NOW_S - 1) == "just now"
    assert text.ago(moment, NOW_S + 59) == "59 s ago"
    assert text.ago(moment, NOW_S + 7_300) == "2 h ago"


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({"kind": "upload"}, "uploading"),
        ({}, "submitting"),
        ({"batch_id": "batch_1", "stage": 1}, "validating"),
        ({"batch_id": "batch_1", "stage": 2}, "running"),
        ({"batch_id": "batch_1", "stage": 3}, "finishing"),
        ({"batch_id": "batch_1", "stage": 2, "cancel_requested": 1}, "cancelling"),
        ({"kind": "download"}, "downloading"),
    ],
)
def test_phases_of_a_run(fields: dict[str, object], phase: str) -> None:
    assert standing(_job(**fields)).phase == phase


def test_without_a_terminal_there_is_a_line_for_each_change() -> None:
    console = Console(record=True, width=200)
    display = make_display(console)
    assert isinstance(display, Lines)
    with display:
        for completed in (1, 2):
            display.show(Standing("running", completed=completed, total=9))
        display.show(Standing("finishing"))
    shown = console.export_text().splitlines()
    assert [line.partition("] ")[2] for line in shown] == ["running, 1 of 9", "finishing"]


def test_in_a_terminal_there_is_a_bar() -> None:
    console = Console(force_terminal=True, record=True, width=100)
    with make_display(console) as display:
        display.show(Standing("running", completed=3, failed=1, total=9, message="why\x1b[2J"))
    shown = console.export_text()
    assert "running" in shown
    assert "4 of 9, 1 failed" in shown
    assert "why\N{REPLACEMENT CHARACTER}[2J" in shown


def test_files_are_replaced_whole_and_old_ones_removed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "out.jsonl"
    source.write_text("new")
    target.write_text("old")
    assert keep(source, target) == target
    assert target.read_text() == "new"
    assert keep(None, target) is None
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    with pytest.raises(FileNotFoundError):
        keep(tmp_path / "missing", target)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
