"""The output of commands."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from batchflow.cli import job_views
from batchflow.cli.checks.check import CheckResult, Level
from batchflow.cli.doctor import Section, report
from batchflow.cli.output import echo
from batchflow.cli.progress import Lines, RunProgress, make_display
from batchflow.cli.run import replace_file
from batchflow.cli.run_summary import ResultsAudit, RunSummary
from batchflow.cli.watch_screen import FleetView, screen
from batchflow.jobs import Job
from batchflow.overview.cancellation import Cancellation
from batchflow.overview.summary import Summary
from batchflow.requests.results import RequestError
from batchflow.states import JobKind, JobState
from batchflow.store.records import CancelResult

NOW_S = 1_800_000_000.0
NOW = datetime.fromtimestamp(NOW_S, UTC)
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


def _summary(audit: ResultsAudit) -> RunSummary:
    return RunSummary(
        audit=audit,
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


def _lines(content: RenderableType, width: int) -> list[str]:
    """Render for a terminal of this width, without styles."""
    console = Console(width=width, height=10, highlight=False)
    with console.capture() as capture:
        console.print(content)
    return [line.rstrip() for line in capture.get().splitlines()]


def _text(content: RenderableType) -> str:
    return "\n".join(_lines(content, 1_000)) + "\n"


@pytest.mark.parametrize("fit", ["wrap", "truncate", None])
def test_output_that_is_not_a_terminal_is_complete_and_plain(
    fit: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = job_views.table([_job(message="long " * 50)], NOW)
    echo(table, fit=fit)
    header, row, end = capsys.readouterr().out.split("\n")
    assert row.endswith("long long")
    assert len(row) > 290
    assert "\x1b" not in row
    assert header.startswith("job  ")
    assert not end


@pytest.mark.parametrize(("fit", "fits"), [("wrap", True), ("truncate", True), (None, False)])
def test_output_fits_the_terminal_if_it_is_meant_to(
    fit: Any, fits: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    echo(job_views.table([_job(message="long " * 50)], NOW), fit=fit)
    output = capsys.readouterr().out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    assert lines[1].startswith(_job().id)
    assert (len(lines) == 2) is (fit != "wrap")
    assert (max(map(len, lines)) <= 80) is fits
    assert "\x1b[" in output


def test_a_run_summary_for_people() -> None:
    audit = ResultsAudit(3, 1, 1, 1, 1, 0, (RequestError(400, "bad", "No\x1b[2J.", 1),))
    text = _text(_summary(audit).as_table())
    assert "3: 1 answered, 1 failed, 1 unaccounted for, 1 duplicate\n" in text
    assert "1 x 400 bad: No\N{REPLACEMENT CHARACTER}[2J." in text
    assert "1,234 (1,000 in, 234 out)" in text
    assert "batch_1 (emulated)" in text
    assert "results/output.jsonl" in text
    assert "\x1b" not in text


def test_a_run_summary_lists_the_top_errors_and_counts_the_others() -> None:
    errors = tuple(RequestError(400, f"code{n}", "", 2) for n in range(8))
    text = _text(_summary(ResultsAudit(16, 0, 16, 0, 0, 0, errors)).as_table())
    assert "code4" in text
    assert "code5" not in text
    assert "6 x other errors" in text


def test_a_run_summary_as_json() -> None:
    audit = ResultsAudit(1, 0, 1, 0, 0, 0, (RequestError(400, "bad", "No.", 1),))
    data = json.loads(json.dumps(_summary(audit).as_data()))
    assert data["tokens"] == {"input": 1000, "output": 234, "total": 1234}
    assert data["errors"] == [{"status": 400, "code": "bad", "message": "No.", "count": 1}]
    assert data["error_file"] is None
    assert data["duration_s"] == 12.3


def test_job_details() -> None:
    job = _job(batch_id="batch_1", total=10, completed=3, failed=1, message="one\ntwo \x1b[1m")
    text = _text(job_views.details(job, NOW, public_url=None))
    assert "requests     3 answered and 1 failed of 10\n" in text
    assert "(3 min ago)" in text
    assert "message      one\n             two" in text
    assert "\x1b" not in text
    assert "attempt" not in text


def test_job_details_include_expiry_cost_and_page() -> None:
    live = _job(expires_at=str(NOW_S + 7_500))
    text = _text(job_views.details(live, NOW, public_url="https://batchflow.example.com"))
    assert "(2 h 5 min left)" in text
    assert f"https://batchflow.example.com/jobs/{live.id}" in text
    ended = _job(
        state="succeeded",
        expires_at=str(NOW_S + 7_500),
        input_tokens=1_000,
        output_tokens=234,
        top_error="2 x 400 bad: No.",
    )
    text = _text(job_views.details(ended, NOW, public_url=None))
    assert "left" not in text
    assert "1,234 (1,000 in, 234 out)" in text
    assert "2 x 400 bad: No." in text


def test_job_details_end_with_the_timeline() -> None:
    history = (
        f"{NOW_S - 200}\tqueued\t\tcreate\t\n{NOW_S - 5}\trunning\tin_progress\tpoll\tWhy\x1b[2J"
    )
    lines = _text(job_views.details(_job(history=history), NOW, public_url=None)).splitlines()
    assert lines[-3] == ""
    assert lines[-2].split()[2:] == ["queued", "create"]
    assert lines[-1].split()[2:] == [
        "running",
        "in_progress",
        "poll",
        "Why\N{REPLACEMENT CHARACTER}[2J",
    ]


def test_a_table_has_one_line_per_job() -> None:
    jobs = [_job(message="[red]text[/red]"), _job(state="failed", total=5, completed=5)]
    _, first, second = _text(job_views.table(jobs, NOW)).splitlines()
    assert first.endswith("3 min ago  [red]text[/red]")
    assert second.endswith("5/5   5 s ago")


def _fleet(**fields: object) -> Summary:
    given = {
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
        "uncollected": 0,
        "oldest_uncollected": None,
        "unreadable": 0,
        "oldest_batch": None,
        "oldest_batch_since": None,
        "polled_at": NOW_S - 3,
        "swept_at": None,
        "webhook_at": None,
        "workers": {"poll": 2},
    }
    return Summary.model_validate(given | fields)


def _screen(view: FleetView | None, problem: str = "", *, width: int = 120) -> list[str]:
    return _lines(screen(view, problem, width=width, height=10), width)


def test_the_screen_has_statistics_and_the_jobs_that_fit() -> None:
    job = _job(total=10, completed=4, message="why\x1b[2J", expires_at=str(NOW_S + 60))
    lines = _screen(FleetView(_fleet(), [job] * 30))
    assert len(lines) == 10
    assert "2 running  1 queued  last hour: 5 succeeded, 1 failed" in lines[0]
    assert "submit 0, poll 2, files 0" in lines[1]
    assert "last poll 3 s ago" in lines[1]
    assert "last webhook never" in lines[1]
    for cell in (job.id, "4/10", "1 min", "why\N{REPLACEMENT CHARACTER}[2J"):
        assert cell in lines[4]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_screen_fits_the_terminal(width: int) -> None:
    waits = [{"reason": "openai", "what": "key", "jobs": None, "message": "m" * 300, "until": None}]
    lines = _screen(FleetView(_fleet(waits=waits), [_job(message="long " * 60)]), width=width)
    assert len(lines) == 6
    assert all(len(line) <= width for line in lines)
    assert "running" in lines[-1]


def test_the_screen_says_why_it_is_outdated() -> None:
    problem = "Redis can't be reached: refused."
    assert _screen(None, problem)[0].startswith(f"{problem} Retrying.")
    lines = _screen(FleetView(_fleet(), [_job()]), problem)
    assert lines[0].startswith(problem)
    assert "bf-" in lines[-1]


@pytest.mark.parametrize("width", [80, 100, 1_000])
def test_check_results_are_aligned_and_fit_the_terminal(width: int) -> None:
    results = (
        CheckResult(Level.PROBLEM, "broker", "seen " * 30, "Do something about it, soon. " * 5),
        CheckResult(Level.OK, "a longer name", "fine\x1b[2J"),
    )
    lines = _lines(report([Section("Celery", results)]), width)
    assert lines[0] == "Celery"
    assert lines[1].startswith("  problem  broker         seen seen")
    assert lines[-2:] == ["  ok       a longer name  fine\N{REPLACEMENT CHARACTER}[2J", ""]
    assert all(line.startswith(" " * 26) for line in lines[2:-2])
    assert max(map(len, lines)) <= width
    assert (len(lines) == 5) is (width == 1_000)


def test_counts() -> None:
    counts = {(JobKind.BATCH, JobState.RUNNING): 2, (JobKind.UPLOAD, JobState.RUNNING): 1}
    assert job_views.counts_line(counts, matching=True) == "3 jobs in total: 3 running."
    assert job_views.counts_line(counts, matching=False).startswith("No job matches.")
    assert job_views.counts_line({}, matching=False) == "There are no jobs."


@pytest.mark.parametrize(
    ("result", "delayed", "expected"),
    [
        (CancelResult.CANCELLED, False, "Cancelled bf-"),
        (CancelResult.ENDED, False, "had already ended: running"),
        (CancelResult.REQUESTED, False, "The workers are cancelling"),
        (CancelResult.REQUESTED, True, "Recorded the cancellation"),
    ],
)
def test_the_result_of_a_cancellation(result: CancelResult, delayed: bool, expected: str) -> None:
    assert expected in job_views.cancellation_line(Cancellation(result, delayed, _job()))


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
    assert RunProgress.of(_job(**fields)).phase == phase


def test_without_a_terminal_progress_is_a_line_per_change() -> None:
    console = Console(record=True, width=200)
    display = make_display(console)
    assert isinstance(display, Lines)
    with display:
        for completed in (1, 2):
            display.show(RunProgress("running", completed=completed, total=9))
        display.show(RunProgress("finishing"))
    lines = console.export_text().splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["running, 1 of 9", "finishing"]


def test_in_a_terminal_progress_is_a_bar() -> None:
    console = Console(force_terminal=True, record=True, width=100)
    with make_display(console) as display:
        display.show(RunProgress("running", completed=3, failed=1, total=9, message="why\x1b[2J"))
    text = console.export_text()
    assert "running" in text
    assert "4 of 9, 1 failed" in text
    assert "why\N{REPLACEMENT CHARACTER}[2J" in text


def test_result_files_are_replaced_atomically_and_old_ones_deleted(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "out.jsonl"
    source.write_text("new")
    target.write_text("old")
    assert replace_file(source, target) == target
    assert target.read_text() == "new"
    assert replace_file(None, target) is None
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing", target)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
