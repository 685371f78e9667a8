"""The status page, in a real browser over a real gateway and Redis."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from batchflow.jobs import BatchSpec, Credential, JobRequest, random_job_id
from batchflow.overview.formatting import short_id
from batchflow.overview.job_list import MAX_SEARCHED
from batchflow.queue import QUEUE_OF, Queue, Step
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.states import JobKind, JobState, Stage
from batchflow.store import JobStore, backoff, heartbeats, keys, records
from tests.kit.browser import Scheme, Window, running_chromium, window
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient, Node, inputs_of, template_of
from tests.kit.flyte_tasks import batch_task, requests
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.job_requests import a_job_request
from tests.kit.population import populate
from tests.kit.processes import RedisServer
from tests.kit.stack import Stack
from tests.kit.steps import wait_in_queue

Fields = Mapping[str, records.Value]

TOKEN = "a-token-of-32-characters-or-so--"
EXECUTION = "shop/production/a7f3kq2m9x/n0"
HOSTILE = "<img src=x onerror=alert(1)>\"'</td></table><script>alert(2)</script>\u202ereversed"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@contextmanager
def old_gateway(settings: Settings) -> Iterator[Gateway]:
    """A gateway over a store that has been there for long, and so knows every job."""
    with running_gateway(settings) as gateway:
        gateway.store.redis.set(keys.full(settings.key_prefix, keys.BORN), 0)
        yield gateway


@pytest.fixture
def gateway(settings: Callable[..., Settings]) -> Iterator[Gateway]:
    with old_gateway(settings()) as gateway:
        yield gateway


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    with window(browser, gateway.url, expected_statuses=(404,)) as opened:
        yield opened.page


def job_request(store: JobStore, kind: JobKind = JobKind.BATCH, execution: str = EXECUTION) -> str:
    """A new job."""
    job = a_job_request(kind, execution=execution)
    store.run(records.create(job, due_in_s=1_000))
    return job.job_id


def observe(
    store: JobStore,
    job_id: str,
    status: str = "in_progress",
    more: Fields | None = None,
    *,
    to: JobState = JobState.RUNNING,
    **fields: records.Value,
) -> None:
    """What a poll writes."""
    seen: Fields = {"openai_status": status, "batch_id": f"batch_{job_id[3:]}", "tries": 1}
    fields = {**seen, **fields, **(more or {})}
    stage = Stage.ENDED if to.terminal else Stage.IN_PROGRESS
    store.run(records.update(job_id, source="poll", to=to, stage=stage, fields=fields))


def row(page: Page, job_id: str) -> Locator:
    """A job's row in the table."""
    return page.locator(f"tr#{job_id}")


def expect_jobs(page: Page, *job_ids: str) -> None:
    """The table comes to hold these jobs, in this order."""
    expect(page.locator("tbody th a")).to_have_text([short_id(job_id) for job_id in job_ids])


def queued_steps(gateway: Gateway, queue: Queue) -> list[str]:
    """The steps that wait in one of Celery's queues."""
    name = f"{gateway.settings.key_prefix}.{queue}"
    messages = gateway.store.redis.lrange(name, 0, -1)
    return [json.loads(message)["headers"]["task"] for message in messages]


# -- it updates itself ----------------------------------------------------------------------------


def test_a_batch_comes_progresses_and_ends_without_a_reload(
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


def test_a_running_batch_is_cancelled_at_openai(
    browser: Browser, stack: Stack, flyte: FlyteClient, emulator: Emulator, node: Node, org: str
) -> None:
    emulator.configure(in_progress_s=600)
    file_id = emulator.upload(org, requests())
    task = flyte.create(template_of(batch_task(org)), inputs_of(input_file_id=file_id), node)
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    with window(browser, stack.gateway_url) as opened:
        page = opened.page
        page.goto(f"/jobs/{task.get().custom_info['job_id']}")
        page.get_by_text("Cancel this job").click()
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.get_by_text("It ends when OpenAI says so.")).to_be_visible()
        expect(page.locator(".standing")).to_contain_text("Cancelled")
        expect(page.get_by_role("button", name="Cancel the job")).to_have_count(0)
    assert "Cancelled from the status page" in task.fails()
    assert [batch["status"] for batch in emulator.batches(org)] == ["cancelled"]


def test_a_job_is_followed_on_its_page(gateway: Gateway, page: Page) -> None:
    job_id = job_request(gateway.store)
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

    # Of this nothing is told but by the record.
    observe(gateway.store, job_id, completed=49_000)
    expect(page.locator("progress")).to_have_attribute("value", "49034")

    observe(gateway.store, job_id, "expired", to=JobState.FAILED, message="Too late.")
    expect(page.locator(".said")).to_have_text("Too late.")
    expect(page).to_have_title(f"Failed, {job_id[:11]} · Batchflow")
    expect(page.get_by_text("Cancel this job")).to_have_count(0)


def test_what_somebody_does_survives_an_update(gateway: Gateway, page: Page) -> None:
    first = job_request(gateway.store)
    page.goto("/")
    page.get_by_label("Execution").fill("a7f3")
    search = page.get_by_label("Search")
    search.press_sequentially("half a wo")
    search.evaluate("field => field.setSelectionRange(2, 4)")

    others = [job_request(gateway.store) for _ in range(3)]
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


def test_an_opened_question_stays_open(gateway: Gateway, page: Page) -> None:
    job_id = job_request(gateway.store)
    page.goto(f"/jobs/{job_id}")
    page.get_by_text("Cancel this job").click()
    observe(gateway.store, job_id, message="Something new.")
    expect(page.locator(".said")).to_have_text("Something new.")
    expect(page.get_by_role("button", name="Cancel the job")).to_be_visible()


def test_who_listens_hears_what_changed_and_no_more(gateway: Gateway, page: Page) -> None:
    job_id = job_request(gateway.store)
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


def test_a_page_that_nobody_sees_asks_for_nothing(
    gateway: Gateway, page: Page, browser: Browser
) -> None:
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
        job_id = job_request(gateway.store)
        expect(row(other.page, job_id)).to_be_visible()
    assert asked == []
    page.evaluate(turn, False)
    expect(row(page, job_id)).to_be_visible()


def test_a_lost_connection_is_shown_and_mended(gateway: Gateway, browser: Browser) -> None:
    with window(browser, gateway.url) as opened:
        page = opened.page
        page.goto("/")
        connection = page.locator("#connection")
        expect(connection).to_have_text("Live")
        page.context.set_offline(True)
        job_id = job_request(gateway.store)
        expect(connection).to_have_text("Connection lost, trying again")
        page.context.set_offline(False)
        expect(connection).to_have_text("Live")
        expect(row(page, job_id)).to_be_visible()
        # The browser's own words for it.
        assert all("ERR_INTERNET_DISCONNECTED" in each for each in opened.complaints)
        opened.complaints.clear()


def test_redis_is_away_and_comes_back(
    browser: Browser, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    with (
        RedisServer(tmp_path) as redis,
        running_gateway(settings(redis_url=redis.url)) as ours,
    ):
        job_id = job_request(ours.store)
        with window(browser, ours.url, expected_statuses=(503,)) as opened:
            page = opened.page
            page.goto("/")
            expect(row(page, job_id)).to_be_visible()
            redis.kill()
            expect(page.locator("#connection")).to_have_text("Connection lost, trying again")
            # What was known is still there to be read.
            expect(row(page, job_id)).to_be_visible()

            page.reload()
            expect(page.get_by_role("heading", name="The job store is unavailable")).to_be_visible()
            assert opened.violations() == ""
            redis.start()
            expect(page.get_by_text("No jobs yet.")).to_be_visible()


# -- finding jobs ---------------------------------------------------------------------------------


def test_jobs_are_filtered_by_state_kind_execution_and_text(gateway: Gateway, page: Page) -> None:
    upload, running = job_request(gateway.store, JobKind.UPLOAD), job_request(gateway.store)
    elsewhere = job_request(gateway.store, execution="shop/production/zzz/n0")
    wrong, refused = job_request(gateway.store), job_request(gateway.store)
    observe(gateway.store, running)
    observe(gateway.store, wrong, to=JobState.FAILED, message="Line 17 has no custom_id.")
    observe(gateway.store, refused, to=JobState.FAILED, message="OpenAI refused it.")
    page.goto("/")
    expect_jobs(page, refused, wrong, elsewhere, running, upload)

    states = page.get_by_role("list", name="State")
    states.get_by_role("link", name="Failed").click()
    expect_jobs(page, refused, wrong)
    states.get_by_role("link", name="Running").click()
    expect_jobs(page, refused, wrong, running)
    page.get_by_label("Search").fill("CUSTOM_ID")
    page.get_by_role("button", name="Search").click()
    expect_jobs(page, wrong)
    expect(states.locator("[aria-current]")).to_have_text(["Running", "Failed"])
    page.get_by_role("link", name="Clear filters").click()

    kind = page.get_by_role("list", name="Kind").get_by_role("link", name="Upload")
    kind.click()
    expect_jobs(page, upload)
    kind.click()
    expect_jobs(page, refused, wrong, elsewhere, running, upload)
    page.get_by_label("Execution").fill("zzz")
    page.keyboard.press("Enter")
    expect_jobs(page, elsewhere)
    page.get_by_label("Execution").fill("yyy")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No job matches.")).to_be_visible()
    page.get_by_role("link", name="Clear filters").first.click()
    row(page, elsewhere).get_by_role("link", name="zzz").click()
    expect_jobs(page, elsewhere)


def test_each_number_leads_to_its_jobs(gateway: Gateway, page: Page) -> None:
    queued, running, failed, gave_up = (job_request(gateway.store) for _ in range(4))
    observe(gateway.store, running)
    observe(gateway.store, failed, to=JobState.FAILED)
    observe(gateway.store, gave_up, to=JobState.RETRYABLE)
    numbers = page.get_by_role("region", name="The fleet now")
    for name, found in (
        ("Running", [running]),
        ("Queued", [queued]),
        ("Failed, last hour", [gave_up, failed]),
    ):
        page.goto("/")
        figure = numbers.locator(".figure").filter(has_text=name)
        expect(figure.locator(".value")).to_have_text(str(len(found)))
        figure.get_by_role("link").click()
        expect_jobs(page, *found)
    numbers.locator(".figure").filter(has_text="Oldest open batch").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(queued)


def test_why_jobs_wait_is_said_in_words(gateway: Gateway, page: Page) -> None:
    job_id = job_request(gateway.store)
    job = gateway.store.run(records.get(job_id))
    assert job is not None
    gateway.store.run(
        backoff.extend(job.credential, message="OpenAI answers 503.", retry_after_s=200)
    )
    wait_in_queue(gateway.store, f"{job.credential}|o4-mini", job.id)
    page.goto("/")
    waits = page.locator(".waits li")
    expect(waits.nth(0)).to_contain_text("For a worker on the queue submit 1 job")
    expect(waits.nth(1)).to_contain_text("For OpenAI, with FLYTE_OPENAI_API_KEY asked again in 3")
    expect(waits.nth(1)).to_contain_text("OpenAI answers 503.")
    expect(waits.nth(2)).to_contain_text("o4-mini with FLYTE_OPENAI_API_KEY 1 job")
    waits.nth(2).get_by_role("link").click()
    expect_jobs(page, job_id)


def test_an_id_in_the_search_opens_its_job(gateway: Gateway, page: Page) -> None:
    job_id = job_request(gateway.store)
    observe(gateway.store, job_id)
    for text in (job_id, f"batch_{job_id[3:]}", f" {job_id} "):
        page.goto("/")
        page.get_by_label("Search").fill(text)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/jobs/{job_id}")


def test_older_jobs_are_on_further_pages(gateway: Gateway, page: Page) -> None:
    made = [job_request(gateway.store) for _ in range(120)][::-1]
    page.goto("/?state=queued")
    expect_jobs(page, *made[:50])
    page.get_by_role("link", name="Older jobs").click()
    expect_jobs(page, *made[50:100])
    page.get_by_role("link", name="Older jobs").click()
    expect_jobs(page, *made[100:])
    expect(page.get_by_role("link", name="Older jobs")).to_have_count(0)
    page.get_by_role("link", name="Newest jobs").click()
    expect_jobs(page, *made[:50])


def test_a_search_that_has_read_its_share_can_go_on(gateway: Gateway, page: Page) -> None:
    oldest = job_request(gateway.store, execution="shop/production/the-needle/n0")
    others = [a_job_request(execution=EXECUTION) for _ in range(MAX_SEARCHED * 3 // 2)]
    gateway.store.run_all([records.create(each, due_in_s=1_000) for each in others])
    page.goto("/?text=needle")
    expect(page.get_by_text("No job found yet.")).to_be_visible()
    expect(page.locator(".more")).to_contain_text(f"Some {MAX_SEARCHED:,} jobs were looked through")
    page.get_by_role("link", name="Go on searching").click()
    expect_jobs(page, oldest)


def test_a_page_costs_redis_the_same_however_many_jobs_there_are(gateway: Gateway) -> None:
    costs = []
    with gateway.client() as client:
        client.get("/")
        for serials in (range(300), range(300, 3_000)):
            populate(gateway.store, serials)
            before = calls(gateway.store)
            assert client.get("/").text.count("<tr") == 51
            costs.append(calls(gateway.store) - before)
    assert costs[0] == costs[1]
    assert costs[0]["hgetall"] < 60
    assert not {"keys", "scan", "zscan", "hscan"} & set(costs[0])


def test_a_browser_keeps_what_a_page_is_made_of(gateway: Gateway) -> None:
    with gateway.client() as client:
        page = client.get("/")
        assert page.headers["cache-control"] == "no-store"
        files = re.findall(r'"(/static/[^"]+)"', page.text)
        assert len(files) == 3
        for address in files:
            assert "immutable" in client.get(address).headers["cache-control"]


def test_the_first_page_helps_who_has_no_jobs(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_text("batchflow run requests.jsonl")).to_be_visible()
    expect(page.locator(".figure").filter(has_text="Workers")).to_contain_text("none runs")


# -- one job --------------------------------------------------------------------------------------


def test_a_job_is_opened_with_the_keyboard(gateway: Gateway, page: Page) -> None:
    job_id = job_request(gateway.store)
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


def test_a_job_leads_to_openai_and_flyte(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    console = "https://flyte.example.com/console"
    with (
        old_gateway(settings(flyte_console_url=console)) as gateway,
        window(browser, gateway.url) as opened,
    ):
        page = opened.page
        job_id = job_request(gateway.store)
        observe(gateway.store, job_id, output_file_id="file-out", error_file_id="file-err")
        page.goto(f"/jobs/{job_id}")
        links = {
            link.inner_text(): link.get_attribute("href") for link in page.locator("dd a").all()
        }
        openai = "https://platform.openai.com"
        assert links == {
            f"batch_{job_id[3:]}": f"{openai}/batches/batch_{job_id[3:]}",
            "file-1": f"{openai}/storage/files/file-1",
            "file-out": f"{openai}/storage/files/file-out",
            "file-err": f"{openai}/storage/files/file-err",
            "a7f3kq2m9x": f"{console}/projects/shop/domains/production/executions/a7f3kq2m9x",
            "All jobs of this execution": "/?execution=shop%2Fproduction%2Fa7f3kq2m9x",
        }
        page.get_by_role("link", name="All jobs of this execution").click()
        expect_jobs(page, job_id)


def test_the_most_frequent_error_is_found_while_somebody_looks(
    gateway: Gateway, page: Page
) -> None:
    job_id = job_request(gateway.store)
    ended: Fields = {"total": 9, "completed": 2, "failed": 7, "error_file_id": "file-err"}
    observe(gateway.store, job_id, "completed", ended, to=JobState.SUCCEEDED)
    for _ in range(3):
        page.goto(f"/jobs/{job_id}")
        expect(page.get_by_text("Reading the error file")).to_be_visible()
    assert queued_steps(gateway, QUEUE_OF[Step.EXPLAIN]) == [Step.EXPLAIN]
    gateway.store.run(records.annotate(job_id, {"top_error": "7 x 400 invalid: Too long."}))
    expect(page.locator(".said")).to_contain_text("7 x 400 invalid: Too long.")


def test_a_broker_that_is_away_does_not_break_a_page(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with (
        old_gateway(settings(broker_url=nowhere)) as gateway,
        window(browser, gateway.url) as opened,
    ):
        page = opened.page
        job_id = job_request(gateway.store)
        observe(gateway.store, job_id, failed=1, error_file_id="file-err")
        page.goto(f"/jobs/{job_id}")
        expect(page.get_by_text("Reading the error file")).to_be_visible()
        page.get_by_text("Cancel this job").click()
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.get_by_text("Celery's broker is away")).to_be_visible()


def test_a_job_that_ended_meanwhile_is_not_cancelled(gateway: Gateway, browser: Browser) -> None:
    job_id = job_request(gateway.store)
    # Without a script the page stays as it was.
    with window(browser, gateway.url, java_script_enabled=False) as opened:
        page = opened.page
        page.goto(f"/jobs/{job_id}")
        observe(gateway.store, job_id, "completed", to=JobState.SUCCEEDED)
        page.get_by_text("Cancel this job").click()
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.get_by_text("The job had ended already")).to_be_visible()
        expect(page.locator(".standing")).to_contain_text("Succeeded")


def test_an_id_that_nobody_has_is_explained(page: Page) -> None:
    page.goto("/jobs/bf-mctgn4lcdvhclm2p4qc7gkxbae")
    expect(page.get_by_role("heading", name="No such job")).to_be_visible()
    expect(page.get_by_text("There is no job bf-mctgn4lcdvhclm2p4qc7gkxbae.")).to_be_visible()
    page.get_by_role("link", name="To all jobs").click()
    expect(page.get_by_text("No jobs yet.")).to_be_visible()


@pytest.mark.parametrize(
    "path", ["/?state=nonsense", "/?after=nonsense", "/jobs/%20", "/?text=" + 400 * "x"]
)
def test_an_address_that_makes_no_sense_is_explained(gateway: Gateway, path: str) -> None:
    with gateway.client() as client:
        answer = client.get(path)
    assert answer.status_code == 400
    assert "That can&#39;t be shown" in answer.text


# -- safety ---------------------------------------------------------------------------------------


def test_others_words_are_shown_as_words(gateway: Gateway, page: Page) -> None:
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


def test_nobody_gets_in_without_the_token(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    with (
        old_gateway(settings(api_token=TOKEN)) as gateway,
        window(browser, gateway.url, expected_statuses=(401,)) as opened,
    ):
        page = opened.page
        job_id = job_request(gateway.store)
        page.goto("/?state=queued")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert job_id not in page.content()
        page.get_by_label("Token").fill("Wrong token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("That is Wrong token.")
        assert opened.violations() == ""

        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/?state=queued")
        row(page, job_id).locator("th a").click()
        page.get_by_text("Cancel this job").click()
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.get_by_role("status").filter(has_text="Cancelled.")).to_be_visible()

        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_link_on_another_site_leads_in_who_has_logged_in(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    with (
        old_gateway(settings(api_token=TOKEN)) as gateway,
        window(browser, gateway.url) as opened,
    ):
        page = opened.page
        job_id = job_request(gateway.store)
        page.goto("/login")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        # As the Flyte console has it.
        link = f"<a href='{gateway.url}/jobs/{job_id}'>Batchflow</a>"
        page.route(
            "https://flyte.example.com/",
            lambda route: route.fulfill(content_type="text/html", body=link),
        )
        page.goto("https://flyte.example.com/")
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Batch {job_id}")


def test_an_open_page_goes_to_the_login_when_the_session_is_over(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    with (
        old_gateway(settings(api_token=TOKEN)) as gateway,
        window(browser, gateway.url, expected_statuses=(401,)) as opened,
    ):
        page = opened.page
        page.goto("/login")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("Live")
        page.context.clear_cookies()
        job_request(gateway.store)
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()


# -- for everybody --------------------------------------------------------------------------------


def test_it_works_without_a_script(gateway: Gateway, browser: Browser) -> None:
    made = [job_request(gateway.store) for _ in range(51)]
    with window(browser, gateway.url, java_script_enabled=False) as opened:
        page = opened.page
        page.goto("/")
        page.get_by_role("list", name="State").get_by_role("link", name="Queued").click()
        page.get_by_role("link", name="Older jobs").click()
        row(page, made[0]).locator("th a").click()
        page.get_by_text("Cancel this job").click()
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.locator(".standing")).to_contain_text("Cancelled")
        page.goto("/")
        page.get_by_label("Search").fill("from the status page")
        page.get_by_role("button", name="Search").click()
        expect_jobs(page, made[0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_no_page_keeps_anybody_out(
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
        seen["the question"] = opened.violations()
        assert {path: found for path, found in seen.items() if found} == {}


def seen_at(opened: Window, path: str) -> str:
    """What is wrong with a page, which must not be wider than the window, either."""
    opened.page.goto(path)
    wide = opened.page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return opened.violations() + ("It is wider than the window." if wide else "")


def fill(store: JobStore) -> tuple[str, str]:
    """Jobs of every kind and state, with all that can be shown of them; a live and an ended one."""
    made = {(kind, state): job_request(store, kind) for kind in JobKind for state in JobState}
    for (kind, state), job_id in made.items():
        if state is JobState.QUEUED:
            continue
        moved: Fields = {"bytes_done": 5_000_000, "bytes_total": 9_000_000}
        done: Fields = {"total": 5_000, "completed": 1_234, "failed": 7, "error_file_id": "file-e"}
        counts = done if kind is JobKind.BATCH else moved
        fields: Fields = {
            "message": "Why it is as it is, in quite a few words. " * 4,
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


def calls(store: JobStore) -> Counter[str]:
    """How often Redis has carried out each command that a page may send."""
    # What follows the stream of events goes on meanwhile, and connections are looked after.
    others = ("x", "ping", "hello", "client", "info")
    found: Counter[str] = Counter()
    for name, each in store.redis.info("commandstats").items():
        command = name.removeprefix("cmdstat_")
        if not command.startswith(others):
            found[command] = each["calls"]
    return found
