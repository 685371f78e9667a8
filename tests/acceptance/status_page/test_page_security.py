"""The token, sessions, and text that tries to be markup."""

from collections.abc import Callable
from urllib.parse import quote

from playwright.sync_api import Browser, Page, expect

from batchflow.jobs import BatchSpec, Credential, JobRequest, random_job_id
from batchflow.settings import Settings
from batchflow.store import records
from tests.kit.browser import window
from tests.kit.gateway import Gateway
from tests.kit.status_page import cancel, log_in, make_job, observe, old_gateway, row

TOKEN = "a-token-of-32-characters-or-so--"
HOSTILE = "<img src=x onerror=alert(1)>\"'</td></table><script>alert(2)</script>\u202ereversed"


def test_markup_in_values_is_shown_as_text(gateway: Gateway, page: Page) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    execution = f"shop/production/{HOSTILE}/n0".replace("</", "<")
    spec = BatchSpec(
        credential=Credential(),
        input_file_id="file-1",
        config={"model": HOSTILE, "metadata": {HOSTILE: HOSTILE}},
    )
    job = JobRequest(job_id=random_job_id(), spec=spec, execution=execution)
    gateway.store.run(records.create(job, due_in_s=1_000))
    observe(gateway.store, job.job_id, HOSTILE, message=HOSTILE)
    gateway.store.run(records.annotate(job.job_id, {"top_error": HOSTILE}))
    shown = HOSTILE.replace("\u202e", "\ufffd")
    page.goto("/")
    expect(row(page, job.job_id).locator(".message")).to_have_text(shown)
    expect(row(page, job.job_id).locator(".model")).to_have_text(shown)
    row(page, job.job_id).locator(".execution a").click()
    row(page, job.job_id).locator("th a").click()
    expect(page.locator(".said").first).to_have_text(shown)
    expect(page.locator("pre")).to_contain_text("onerror=alert(1)")
    page.goto(f"/?text={quote(HOSTILE)}&organization={quote(HOSTILE)}")
    expect(page.get_by_label("Search")).to_have_value(shown)
    assert dialogs == []
    assert page.locator("img, table table, main script").count() == 0


def test_a_browser_needs_the_token(browser: Browser, settings: Callable[..., Settings]) -> None:
    with (
        old_gateway(settings(api_token=TOKEN)) as gateway,
        window(browser, gateway.url, expected_statuses=(401,)) as opened,
    ):
        page = opened.page
        job_id = make_job(gateway.store)
        page.goto("/?state=queued")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert job_id not in page.content()
        log_in(page, "not the token")
        expect(page.get_by_role("alert")).to_contain_text("Wrong token.")
        assert opened.violations() == ""

        log_in(page, TOKEN)
        page.wait_for_url("**/?state=queued")
        row(page, job_id).locator("th a").click()
        cancel(page)
        expect(page.get_by_role("status").filter(has_text="Cancelled.")).to_be_visible()

        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_link_from_another_site_works_within_a_session(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    with old_gateway(settings(api_token=TOKEN)) as gateway, window(browser, gateway.url) as opened:
        page = opened.page
        job_id = make_job(gateway.store)
        page.goto("/login")
        log_in(page, TOKEN)
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        # Like a link in the Flyte console.
        link = f"<a href='{gateway.url}/jobs/{job_id}'>Batchflow</a>"
        page.route(
            "https://flyte.example.com/",
            lambda route: route.fulfill(content_type="text/html", body=link),
        )
        page.goto("https://flyte.example.com/")
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Batch {job_id}")


def test_an_open_page_leads_to_the_login_when_the_session_ends(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    with (
        old_gateway(settings(api_token=TOKEN)) as gateway,
        window(browser, gateway.url, expected_statuses=(401,)) as opened,
    ):
        page = opened.page
        page.goto("/login")
        log_in(page, TOKEN)
        expect(page.locator("#connection")).to_have_text("Live")
        page.context.clear_cookies()
        make_job(gateway.store)
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
