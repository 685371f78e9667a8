"""How the status page shows values, and what it says of a fleet."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batchflow.gateway.pages.fleet import StatTile, blockers, spoken_summary, stat_tiles
from batchflow.gateway.pages.list_query import ListQuery, kind_filters, state_filters
from batchflow.gateway.pages.templating import printable
from batchflow.links import batch_page, execution_page, file_page
from batchflow.overview.summary import Summary, Wait
from batchflow.states import LIVE, JobKind, JobState

NOW = datetime(2026, 7, 4, 12, 0, tzinfo=UTC)
EVERYWHERE = {"submit": 2, "poll": 2, "files": 2}


def ago(**how_long: float) -> datetime:
    return NOW - timedelta(**how_long)


def summary(jobs: dict[tuple[JobKind, JobState], int] | None = None, **fields: Any) -> Summary:
    """A fleet in which all is well, but for ``fields``."""
    jobs = jobs or {}
    counts = {kind: {state: jobs.get((kind, state), 0) for state in JobState} for kind in JobKind}
    usual = {
        "at": NOW,
        "counts": counts,
        "running": sum(by_state[JobState.RUNNING] for by_state in counts.values()),
        "queued": sum(by_state[JobState.QUEUED] for by_state in counts.values()),
        "waits": (),
        "succeeded_last_hour": 0,
        "failed_last_hour": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "since": ago(days=3),
        "uncollected": 0,
        "oldest_uncollected": None,
        "unreadable": 0,
        "oldest_batch": None,
        "oldest_batch_since": None,
        "polled_at": ago(seconds=4),
        "swept_at": ago(seconds=1),
        "webhook_at": None,
        "workers": EVERYWHERE,
    }
    return Summary.model_validate(usual | fields)


def tiles(of: Summary, *, sweep_interval_s: float = 1) -> list[StatTile]:
    return stat_tiles(of, sweep_interval_s=sweep_interval_s, poll_interval_s=15)


def figure(name: str, of: Summary) -> StatTile:
    return next(each for each in tiles(of) if each.name == name)


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Größe, 数, 🙂\n\tand so on", "Größe, 数, 🙂\n\tand so on"),
        ("a\x00b\x1b[31mc\x7f", "a�b�[31mc�"),
        ("\u202ereversed\u2066isolated\u200f", "�reversed�isolated�"),
        (7, 7),
    ],
)
def test_what_would_rearrange_a_page_is_not_shown(given: object, shown: object) -> None:
    assert printable(given) == shown


def test_links_stay_where_they_lead() -> None:
    odd = 'a/../b?c#d"e'
    assert batch_page(odd) == "https://platform.openai.com/batches/a%2F..%2Fb%3Fc%23d%22e"
    assert file_page("file-1") == "https://platform.openai.com/storage/files/file-1"
    console = "https://flyte.example.com/console"
    assert (
        execution_page(console, "p/d/x y/n0") == f"{console}/projects/p/domains/d/executions/x%20y"
    )
    for nowhere in ("", "p/d", "p//x"):
        assert execution_page(console, nowhere) is None


# -- filters --------------------------------------------------------------------------------------


def test_a_filter_as_an_address_and_back() -> None:
    query = ListQuery(
        state=frozenset({JobState.FAILED, JobState.QUEUED}),
        kind=frozenset({JobKind.BATCH}),
        text=" a&b ",
    )
    assert query.url() == "/?state=queued&state=failed&kind=batch&text=a%26b"
    assert query.url("/api/jobs").startswith("/api/jobs?state=queued")
    assert query.text == "a&b"
    assert ListQuery().url() == "/"
    assert not ListQuery().is_filtered


def test_another_filter_begins_at_the_first_page() -> None:
    query = ListQuery(text="x").page_after("1795378661.477384 bf-x")
    assert "after=" in query.url()
    assert query.toggled("state", JobState.FAILED).url() == "/?state=failed&text=x"
    assert query.changed().url() == "/?text=x"


def test_links_switch_states_on_and_off() -> None:
    query = ListQuery(state=frozenset({JobState.FAILED}))
    jobs = {(JobKind.BATCH, JobState.FAILED): 3, (JobKind.UPLOAD, JobState.RUNNING): 1_200}
    links = {link.text: link for link in state_filters(query, summary(jobs))}
    assert [text for text, link in links.items() if link.is_on] == ["Failed"]
    assert links["Failed"].href == "/"
    assert links["Running"].href == "/?state=running&state=failed"
    assert links["All"].href == "/"
    counted = {text: links[text].jobs for text in ("All", "Live", "Failed", "Queued")}
    assert counted == {"All": 1_203, "Live": 1_200, "Failed": 3, "Queued": 0}
    live = {link.text: link for link in state_filters(ListQuery(state=LIVE), summary(jobs))}
    assert [text for text, link in live.items() if link.is_on] == ["Live", "Queued", "Running"]


def test_links_count_the_wanted_kinds_and_nothing_that_is_not_known() -> None:
    jobs = {(JobKind.BATCH, JobState.FAILED): 3, (JobKind.UPLOAD, JobState.FAILED): 4}
    uploads = ListQuery(kind=frozenset({JobKind.UPLOAD}))
    [failed] = [c for c in state_filters(uploads, summary(jobs)) if c.text == "Failed"]
    assert failed.jobs == 4
    assert {link.jobs for link in state_filters(ListQuery(text="x"), summary(jobs))} == {None}
    assert [link.is_on for link in kind_filters(uploads)] == [True, False, False]


# -- the fleet ------------------------------------------------------------------------------------


def test_numbers_say_what_they_count_and_lead_there() -> None:
    of = summary(
        {
            (JobKind.BATCH, JobState.RUNNING): 1_900,
            (JobKind.UPLOAD, JobState.RUNNING): 1,
            (JobKind.BATCH, JobState.SUCCEEDED): 700,
        },
        succeeded_last_hour=12,
        input_tokens=1_000_000,
        output_tokens=300_000,
        oldest_batch="bf-mctgn4lcdvhclm2p4qc7gkxbae",
        oldest_batch_since=ago(hours=21, minutes=4),
        webhook_at=ago(minutes=2),
    )
    assert figure("Running", of).value == "1,901"
    assert figure("Running", of).note == "1,900 batches, 1 upload"
    assert figure("Running", of).href == "/?state=running"
    assert figure("Succeeded, last hour", of).note == "700 in total"
    assert figure("Tokens", of).value == "1.3 M"
    assert figure("Tokens", of).note == "since 1 Jul 2026"
    assert "1,000,000 input, 300,000 output" in figure("Tokens", of).title
    assert figure("Oldest live batch", of).value == "21 h 4 min"
    assert figure("Oldest live batch", of).href == "/jobs/bf-mctgn4lcdvhclm2p4qc7gkxbae"
    assert figure("Last poll", of).value == "4 s ago"
    assert figure("Last poll", of).note == "webhook 2 min ago"
    assert not any(each.alert for each in tiles(of))
    assert spoken_summary(of) == "1,901 running, 0 queued, 0 failed in the last hour"


def test_failures_call_for_a_look() -> None:
    failed = figure("Failed, last hour", summary(failed_last_hour=2))
    assert failed.alert
    assert failed.href == "/?state=failed&state=retryable"


@pytest.mark.parametrize(
    ("swept_at", "interval_s", "note"),
    [
        (ago(minutes=5), 1, "no sweep for 5 min: check beat"),
        (None, 1, "no sweep: check beat"),
        (ago(minutes=5), 300, "no webhooks yet"),
    ],
)
def test_a_beat_that_has_stopped_is_noticed(
    swept_at: datetime | None, interval_s: float, note: str
) -> None:
    found = tiles(summary(swept_at=swept_at, polled_at=None), sweep_interval_s=interval_s)
    [polled] = [each for each in found if each.name == "Last poll"]
    assert (polled.value, polled.note) == ("never", note)
    assert polled.alert == ("beat" in note)


def test_polls_that_have_stopped_are_noticed() -> None:
    jobs = {(JobKind.BATCH, JobState.RUNNING): 1}
    long_ago: dict[str, Any] = {"polled_at": ago(hours=1), "oldest_batch_since": ago(hours=2)}
    polled = figure("Last poll", summary(jobs, **long_ago))
    assert (polled.note, polled.alert) == ("OpenAI does not answer polls", True)
    assert not figure("Last poll", summary(**long_ago)).alert
    new_batch = long_ago | {"oldest_batch_since": ago(seconds=5)}
    assert not figure("Last poll", summary(jobs, **new_batch)).alert


@pytest.mark.parametrize(
    ("workers", "value", "note", "alert"),
    [
        (EVERYWHERE, "2", "on each queue", False),
        ({"submit": 1, "poll": 1, "files": 4}, "1", "submit 1, poll 1, files 4", False),
        ({"submit": 1, "poll": 1}, "0", "none on files", True),
        ({"files": 1}, "0", "none on submit and poll", True),
        ({}, "0", "none is running", True),
    ],
)
def test_workers(workers: dict[str, int], value: str, note: str, alert: bool) -> None:
    found = figure("Workers", summary(workers=workers))
    assert (found.value, found.note, found.alert) == (value, note, alert)


def test_why_jobs_wait() -> None:
    outage = Wait(
        reason="openai",
        what="search/key@org-a",
        jobs=None,
        message="OpenAI answers 503.",
        until=NOW + timedelta(minutes=2),
    )
    full = Wait(reason="capacity", what="search/key|o4-mini", jobs=3, message="Full.", until=None)
    first, second = blockers(summary(waits=(outage, full)))
    assert first.what == "For OpenAI, with search/key@org-a"
    assert first.extent == "called again in 2 min"
    assert first.href == "/?state=queued&state=running&text=search%2Fkey%40org-a"
    assert second.what == "For quota at OpenAI, o4-mini with search/key"
    assert second.extent == "3 jobs"
    assert second.href == "/?state=queued&state=running&text=search%2Fkey"


def test_results_wait_for_flyte() -> None:
    [found] = blockers(summary(uncollected=3, oldest_uncollected="bf-1"))
    assert (found.what, found.extent) == ("For Flyte to collect results", "3 jobs")
    assert "restart FlytePropeller" in found.message
    assert found.href == "/jobs/bf-1"
    assert blockers(summary(oldest_uncollected="bf-1")) == [], "it has ended just now"


def test_jobs_wait_for_a_version_that_can_read_them() -> None:
    [found] = blockers(summary(unreadable=2))
    assert (found.what, found.extent) == ("For a version that can read their records", "2 jobs")
    assert "Run the version that wrote them" in found.message
    assert found.href == "/?state=queued&state=running"


def test_jobs_wait_for_a_worker_where_none_is() -> None:
    jobs = {
        (JobKind.UPLOAD, JobState.QUEUED): 2,
        (JobKind.DOWNLOAD, JobState.QUEUED): 1,
        (JobKind.BATCH, JobState.RUNNING): 5,
    }
    [files, poll] = blockers(summary(jobs, workers={"submit": 1}))
    assert (files.what, files.extent) == ("For a worker on the queue files", "3 jobs")
    assert files.href == "/?state=queued&kind=upload&kind=download"
    assert (poll.what, poll.extent) == ("For a worker on the queue poll", "5 jobs")
    assert blockers(summary(jobs)) == []
