"""The page of a job: links, explanation of its errors, cancellation."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from batchflow.overview.health import UNCOLLECTED_S
from batchflow.queue import QUEUE_OF, Queue, Step
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.states import JobState
from batchflow.store import records
from tests.kit.browser import window
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient, Node, inputs_of, template_of
from tests.kit.flyte_tasks import batch_task, requests
from tests.kit.gateway import Gateway
from tests.kit.stack import Stack
from tests.kit.status_page import (
    Fields,
    cancel,
    expect_jobs,
    make_job,
    observe,
    old_gateway,
)
from tests.kit.stores import end_earlier


def test_a_job_links_to_openai_and_flyte(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    console = "https://flyte.example.com/console"
    with (
        old_gateway(settings(flyte_console_url=console)) as gateway,
        window(browser, gateway.url) as opened,
    ):
        page = opened.page
        job_id = make_job(gateway.store)
        observe(gateway.store, job_id, output_file_id="file-out", error_file_id="file-err")
        page.goto(f"/jobs/{job_id}")
        expect(page.get_by_role("link", name="All jobs of this execution")).to_be_visible()
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


def test_opening_a_job_has_its_error_file_read_once(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    ended: Fields = {"total": 9, "completed": 2, "failed": 7, "error_file_id": "file-err"}
    observe(gateway.store, job_id, "completed", ended, to=JobState.SUCCEEDED)
    for _ in range(3):
        page.goto(f"/jobs/{job_id}")
        expect(page.get_by_text("Reading the error file")).to_be_visible()
    assert queued_steps(gateway, QUEUE_OF[Step.EXPLAIN]) == [Step.EXPLAIN]
    gateway.store.run(records.annotate(job_id, {"top_error": "7 x 400 invalid: Too long."}))
    expect(page.locator(".said")).to_contain_text("7 x 400 invalid: Too long.")


def queued_steps(gateway: Gateway, queue: Queue) -> list[str]:
    """The steps in one of Celery's queues."""
    name = f"{gateway.settings.key_prefix}.{queue}"
    messages = gateway.store.redis.lrange(name, 0, -1)
    return [json.loads(message)["headers"]["task"] for message in messages]


def test_a_running_batch_is_cancelled_at_openai(
    browser: Browser, stack: Stack, flyte: FlyteClient, emulator: Emulator, node: Node, org: str
) -> None:
    emulator.configure(in_progress_s=600, cancelling_s=10)
    file_id = emulator.upload(org, requests())
    task = flyte.create(template_of(batch_task(org)), inputs_of(input_file_id=file_id), node)
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    with window(browser, stack.gateway_url) as opened:
        page = opened.page
        page.goto(f"/jobs/{task.get().custom_info['job_id']}")
        cancel(page)
        expect(page.get_by_text("The job ends when OpenAI reports")).to_be_visible()
        expect(page.locator(".standing")).to_contain_text("Cancelled")
        expect(page.get_by_role("button", name="Cancel the job")).to_have_count(0)
    assert "Cancelled from the status page" in task.fails()
    assert [batch["status"] for batch in emulator.batches(org)] == ["cancelled"]


def test_a_page_works_without_the_broker(
    browser: Browser, settings: Callable[..., Settings]
) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with (
        old_gateway(settings(broker_url=nowhere)) as gateway,
        window(browser, gateway.url) as opened,
    ):
        page = opened.page
        job_id = make_job(gateway.store)
        observe(gateway.store, job_id, failed=1, error_file_id="file-err")
        page.goto(f"/jobs/{job_id}")
        expect(page.get_by_text("Reading the error file")).to_be_visible()
        cancel(page)
        expect(page.get_by_text("Celery's broker is unavailable")).to_be_visible()


def test_a_job_that_has_ended_is_not_cancelled(gateway: Gateway, browser: Browser) -> None:
    job_id = make_job(gateway.store)
    # Without a script, the page does not update.
    with window(browser, gateway.url, java_script_enabled=False) as opened:
        page = opened.page
        page.goto(f"/jobs/{job_id}")
        observe(gateway.store, job_id, "completed", to=JobState.SUCCEEDED)
        cancel(page)
        expect(page.get_by_text("The job had already ended")).to_be_visible()
        expect(page.locator(".standing")).to_contain_text("Succeeded")


def test_a_result_that_flyte_has_not_collected_is_explained(gateway: Gateway, page: Page) -> None:
    job_id = make_job(gateway.store)
    observe(gateway.store, job_id, "completed", to=JobState.SUCCEEDED)
    warning = page.get_by_text("Flyte has not collected this result")
    page.goto(f"/jobs/{job_id}")
    expect(warning).to_have_count(0)
    end_earlier(gateway.store.redis, gateway.settings.key_prefix, job_id, UNCOLLECTED_S)
    page.goto("/")
    page.get_by_role("link", name="For Flyte to collect results").click()
    expect(warning).to_be_visible()
    expect(page.locator(".said", has=warning)).to_contain_text("restart FlytePropeller")
    gateway.store.run(records.collect(job_id))
    page.reload()
    expect(warning).to_have_count(0)
    expect(page.locator("dt", has_text="Collected")).to_be_visible()


def test_an_unknown_id_is_explained(page: Page) -> None:
    page.goto("/jobs/bf-mctgn4lcdvhclm2p4qc7gkxbae")
    expect(page.get_by_role("heading", name="No such job")).to_be_visible()
    expect(page.get_by_text("There is no job bf-mctgn4lcdvhclm2p4qc7gkxbae.")).to_be_visible()
    page.get_by_role("link", name="All jobs").click()
    expect(page.get_by_text("No jobs yet.")).to_be_visible()


@pytest.mark.parametrize(
    "path", ["/?state=nonsense", "/?after=nonsense", "/jobs/%20", "/?text=" + 400 * "x"]
)
def test_an_invalid_address_is_explained(gateway: Gateway, path: str) -> None:
    with gateway.client() as client:
        answer = client.get(path)
    assert answer.status_code == 400
    assert "Invalid request" in answer.text
