"""The list of jobs: stat tiles, blockers, filters, search and pages."""

from collections import Counter

from playwright.sync_api import Page, expect

from batchflow.overview.job_list import MAX_SEARCHED
from batchflow.states import JobKind, JobState
from batchflow.store import JobStore, backoff, records
from tests.kit.gateway import Gateway
from tests.kit.job_requests import a_job_request
from tests.kit.population import populate
from tests.kit.status_page import EXECUTION, expect_jobs, make_job, observe, row
from tests.kit.workers import wait_in_queue


def test_jobs_are_filtered_by_state_kind_execution_and_text(gateway: Gateway, page: Page) -> None:
    upload, running = make_job(gateway.store, JobKind.UPLOAD), make_job(gateway.store)
    elsewhere = make_job(gateway.store, execution="shop/production/zzz/n0")
    wrong, refused = make_job(gateway.store), make_job(gateway.store)
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


def test_each_stat_tile_links_to_its_jobs(gateway: Gateway, page: Page) -> None:
    queued, running, failed, gave_up = (make_job(gateway.store) for _ in range(4))
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
        figure = numbers.locator(".figure", has=page.get_by_text(name, exact=True))
        expect(figure.locator(".value")).to_have_text(str(len(found)))
        figure.get_by_role("link").click()
        expect_jobs(page, *found)
    numbers.locator(".figure").filter(has_text="Oldest live batch").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(queued)


def test_blockers_explain_why_jobs_wait(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    job = gateway.store.run(records.get(job_id))
    assert job is not None
    gateway.store.run(
        backoff.extend(job.credential, message="OpenAI answers 503.", retry_after_s=200)
    )
    wait_in_queue(gateway.store, f"{job.credential}|o4-mini", job.id)
    page.goto("/")
    waits = page.locator(".waits li")
    expect(waits.nth(0)).to_contain_text("For a worker on the queue submit 1 job")
    expect(waits.nth(1)).to_contain_text("For OpenAI, with FLYTE_OPENAI_API_KEY called again in 3")
    expect(waits.nth(1)).to_contain_text("OpenAI answers 503.")
    expect(waits.nth(2)).to_contain_text("o4-mini with FLYTE_OPENAI_API_KEY 1 job")
    waits.nth(2).get_by_role("link").click()
    expect_jobs(page, job_id)


def test_an_id_in_the_search_opens_its_job(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    observe(gateway.store, job_id)
    for text in (job_id, f"batch_{job_id[3:]}", f" {job_id} "):
        page.goto("/")
        page.get_by_label("Search").fill(text)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/jobs/{job_id}")


def test_older_jobs_are_on_further_pages(gateway: Gateway, page: Page) -> None:
    made = [make_job(gateway.store) for _ in range(120)][::-1]
    page.goto("/?state=queued")
    expect_jobs(page, *made[:50])
    page.get_by_role("link", name="Older jobs").click()
    expect_jobs(page, *made[50:100])
    page.get_by_role("link", name="Older jobs").click()
    expect_jobs(page, *made[100:])
    expect(page.get_by_role("link", name="Older jobs")).to_have_count(0)
    page.get_by_role("link", name="Newest jobs").click()
    expect_jobs(page, *made[:50])


def test_a_long_search_can_be_continued(gateway: Gateway, page: Page) -> None:
    oldest = make_job(gateway.store, execution="shop/production/the-needle/n0")
    others = [a_job_request(execution=EXECUTION) for _ in range(MAX_SEARCHED * 3 // 2)]
    gateway.store.run_all([records.create(each, due_in_s=1_000) for each in others])
    page.goto("/?text=needle")
    expect(page.get_by_text("No job found so far.")).to_be_visible()
    expect(page.locator(".more")).to_contain_text(f"{MAX_SEARCHED:,} jobs were searched")
    page.get_by_role("link", name="Continue the search").click()
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


def calls(store: JobStore) -> Counter[str]:
    """The number of calls of each Redis command that a page may send."""
    # Sent meanwhile by the event fan-out and by connection pools.
    others = ("x", "ping", "hello", "client", "info")
    found: Counter[str] = Counter()
    for name, each in store.redis.info("commandstats").items():
        command = name.removeprefix("cmdstat_")
        if not command.startswith(others):
            found[command] = each["calls"]
    return found


def test_an_empty_list_says_how_to_start(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_text("batchflow run requests.jsonl")).to_be_visible()
    expect(page.locator(".figure").filter(has_text="Workers")).to_contain_text("none is running")
