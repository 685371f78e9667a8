"""The status page without a script, by keyboard, on a phone, and for screen readers."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from batchflow.states import JobKind, JobState
from batchflow.store import JobStore, backoff, heartbeats, records
from tests.kit.browser import Scheme, Window, window
from tests.kit.gateway import Gateway
from tests.kit.status_page import Fields, cancel, expect_jobs, make_job, observe, row
from tests.kit.workers import wait_in_queue


def test_it_works_without_a_script(gateway: Gateway, browser: Browser) -> None:
    made = [make_job(gateway.store) for _ in range(51)]
    with window(browser, gateway.url, java_script_enabled=False) as opened:
        page = opened.page
        page.goto("/")
        page.get_by_role("list", name="State").get_by_role("link", name="Queued").click()
        page.get_by_role("link", name="Older jobs").click()
        row(page, made[0]).locator("th a").click()
        cancel(page)
        expect(page.locator(".standing")).to_contain_text("Cancelled")
        page.goto("/")
        page.get_by_label("Search").fill("from the status page")
        page.get_by_role("button", name="Search").click()
        expect_jobs(page, made[0])


def test_a_job_can_be_opened_with_the_keyboard(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    link = row(page, job_id).locator("th a")
    for _ in range(40):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    outline = link.evaluate("link => getComputedStyle(link).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Batch {job_id}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_pages_are_accessible_and_fit_the_window(
    gateway: Gateway, browser: Browser, width: int, scheme: Scheme
) -> None:
    with window(
        browser, gateway.url, width=width, scheme=scheme, expected_statuses=(404, 400)
    ) as opened:
        page = opened.page
        paths = ["/", "/?text=nothing", "/jobs/bf-mctgn4lcdvhclm2p4qc7gkxbae", "/?after=nonsense"]
        seen = {path: seen_at(opened, path) for path in paths}
        live, ended = fill(gateway.store)
        paths = ["/", "/?state=running&execution=a7f3kq2m9x", f"/jobs/{live}", f"/jobs/{ended}"]
        seen |= {f"{path} (full)": seen_at(opened, path) for path in paths}
        page.goto(f"/jobs/{live}")
        page.get_by_text("Cancel this job").click()
        seen["the confirmation"] = opened.violations()
        assert {path: found for path, found in seen.items() if found} == {}


def seen_at(opened: Window, path: str) -> str:
    """The accessibility violations of a page, and whether it is wider than the window."""
    opened.page.goto(path)
    wide = opened.page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return opened.violations() + ("The page is wider than the window." if wide else "")


def fill(store: JobStore) -> tuple[str, str]:
    """Create jobs of every kind and state with all fields; return a live and an ended one."""
    made = {(kind, state): make_job(store, kind) for kind in JobKind for state in JobState}
    for (kind, state), job_id in made.items():
        if state is JobState.QUEUED:
            continue
        moved: Fields = {"bytes_done": 5_000_000, "bytes_total": 9_000_000}
        done: Fields = {"total": 5_000, "completed": 1_234, "failed": 7, "error_file_id": "file-e"}
        counts = done if kind is JobKind.BATCH else moved
        fields: Fields = {
            "message": "A message that is long enough for several lines. " * 4,
            "model": "gpt-4o-mini",
            "expires_at": 4_102_444_800,
            "input_tokens": 900,
            "top_error": "7 x 400 invalid: Too long.",
        }
        observe(store, job_id, more={**fields, **counts}, to=state)
    job = store.run(records.get(made[JobKind.BATCH, JobState.RUNNING]))
    assert job is not None
    store.run(backoff.extend(job.credential, message="OpenAI answers 503."))
    wait_in_queue(store, f"{job.credential}|", job.id)
    store.run(heartbeats.beat("celery@one", ["submit", "poll"]))
    return job.id, made[JobKind.BATCH, JobState.FAILED]


def test_browsers_cache_static_files_but_no_page(gateway: Gateway) -> None:
    with gateway.client() as client:
        page = client.get("/")
        assert page.headers["cache-control"] == "no-store"
        files = re.findall(r'"(/static/[^"]+)"', page.text)
        assert len(files) == 3
        for address in files:
            assert "immutable" in client.get(address).headers["cache-control"]
