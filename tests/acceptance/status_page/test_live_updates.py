"""The status page follows what happens, without a reload."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from batchflow.settings import Settings
from batchflow.states import JobState
from tests.kit.browser import window
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient, Node, inputs_of, template_of
from tests.kit.flyte_tasks import batch_task, requests
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.processes import RedisServer
from tests.kit.stack import Stack
from tests.kit.status_page import make_job, observe, row


def test_a_batch_appears_progresses_and_ends_without_a_reload(
    browser: Browser, stack: Stack, flyte: FlyteClient, emulator: Emulator, node: Node, org: str
) -> None:
    emulator.configure(in_progress_s=4)
    with window(browser, stack.gateway_url) as opened:
        page = opened.page
        page.goto(f"/?organization={org}")
        expect(page.get_by_text("No job matches.")).to_be_visible()
        page.evaluate("window.isTheSame = true")

        file_id = emulator.upload(org, requests(20))
        task = flyte.create(template_of(batch_task(org)), inputs_of(input_file_id=file_id), node)
        state = page.locator("tbody td.state")
        expect(state).to_contain_text("Running")
        expect(state).to_contain_text("in progress")
        expect(page.locator("tbody td.progress")).to_have_text("20 of 20")
        expect(state).to_contain_text("Succeeded")
        assert task.succeeds()["request_counts"]["completed"] == 20
        assert page.evaluate("window.isTheSame")


def test_a_job_is_followed_on_its_page(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    page.goto(f"/jobs/{job_id}")
    events = page.locator(".timeline li")
    expect(events).to_have_count(1)
    expect(page).to_have_title(f"Queued, {job_id[:11]} · Batchflow")

    observe(gateway.store, job_id, total=50_000, completed=1_200, failed=34)
    expect(events).to_have_count(2)
    expect(events.last).to_contain_text("Running, in progress")
    expect(events.last).to_contain_text("by poll")
    expect(page.locator("progress")).to_have_attribute("value", "1234")
    expect(page.locator(".amounts")).to_contain_text("1,234 of 50,000 2%")

    # Progress is written without an event.
    observe(gateway.store, job_id, completed=49_000)
    expect(page.locator("progress")).to_have_attribute("value", "49034")

    observe(gateway.store, job_id, "expired", to=JobState.FAILED, message="Too late.")
    expect(page.locator(".said")).to_have_text("Too late.")
    expect(page).to_have_title(f"Failed, {job_id[:11]} · Batchflow")
    expect(page.get_by_text("Cancel this job")).to_have_count(0)


def test_input_focus_and_selection_survive_an_update(gateway: Gateway, page: Page) -> None:
    first = make_job(gateway.store)
    page.goto("/")
    page.get_by_label("Execution").fill("a7f3")
    search = page.get_by_label("Search")
    search.press_sequentially("half a wo")
    search.evaluate("field => field.setSelectionRange(2, 4)")

    others = [make_job(gateway.store) for _ in range(3)]
    for other in others:
        expect(row(page, other)).to_be_visible()
    expect(search).to_be_focused()
    expect(search).to_have_value("half a wo")
    assert search.evaluate("field => [field.selectionStart, field.selectionEnd]") == [2, 4]
    expect(page.get_by_label("Execution")).to_have_value("a7f3")

    link = row(page, first).locator("th a")
    link.focus()
    observe(gateway.store, first, total=10, completed=1)
    expect(row(page, first).locator("progress")).to_be_visible()
    expect(link).to_be_focused()


def test_an_open_confirmation_stays_open(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    page.goto(f"/jobs/{job_id}")
    page.get_by_text("Cancel this job").click()
    observe(gateway.store, job_id, message="Something new.")
    expect(page.locator(".said")).to_have_text("Something new.")
    expect(page.get_by_role("button", name="Cancel the job")).to_be_visible()


def test_screen_readers_announce_only_changes(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    page.goto(f"/jobs/{job_id}")
    said = page.get_by_role("status").filter(has_text="Batch")
    observe(gateway.store, job_id, total=9)
    expect(said).to_have_text("Batch running, in progress")
    said.evaluate(
        "said => { window.times = 0; new MutationObserver(() => window.times++)"
        ".observe(said, {childList: true}) }"
    )
    for completed in range(1, 4):
        observe(gateway.store, job_id, completed=completed)
        expect(page.locator("progress")).to_have_attribute("value", str(completed))
    assert page.evaluate("window.times") == 0


def test_a_hidden_page_sends_no_requests(gateway: Gateway, page: Page, browser: Browser) -> None:
    page.goto("/")
    expect(page.locator("#connection")).to_have_text("Live")
    turn = (
        "hidden => {"
        "Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange')) }"
    )
    page.evaluate(turn, True)
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with window(browser, gateway.url) as other:
        other.page.goto("/")
        job_id = make_job(gateway.store)
        expect(row(other.page, job_id)).to_be_visible()
    assert asked == []
    page.evaluate(turn, False)
    expect(row(page, job_id)).to_be_visible()


def test_a_lost_connection_is_shown_and_restored(gateway: Gateway, browser: Browser) -> None:
    with window(browser, gateway.url) as opened:
        page = opened.page
        page.goto("/")
        connection = page.locator("#connection")
        expect(connection).to_have_text("Live")
        page.context.set_offline(True)
        job_id = make_job(gateway.store)
        expect(connection).to_have_text("Connection lost, trying again")
        page.context.set_offline(False)
        expect(connection).to_have_text("Live")
        expect(row(page, job_id)).to_be_visible()
        # The browser reports the failed requests, too.
        assert all("ERR_INTERNET_DISCONNECTED" in each for each in opened.complaints)
        opened.complaints.clear()


def test_a_page_recovers_from_an_outage_of_redis(
    browser: Browser, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    with RedisServer(tmp_path) as redis, running_gateway(settings(redis_url=redis.url)) as ours:
        job_id = make_job(ours.store)
        with window(browser, ours.url, expected_statuses=(503,)) as opened:
            page = opened.page
            page.goto("/")
            expect(row(page, job_id)).to_be_visible()
            redis.kill()
            expect(page.locator("#connection")).to_have_text("Connection lost, trying again")
            # The last content stays readable.
            expect(row(page, job_id)).to_be_visible()

            page.reload()
            expect(page.get_by_role("heading", name="The job store is unavailable")).to_be_visible()
            assert opened.violations() == ""
            redis.start()
            expect(page.get_by_text("No jobs yet.")).to_be_visible()
