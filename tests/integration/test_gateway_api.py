"""The status API over HTTP: a real gateway, a real Redis."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from batchflow.jobs import JobRequest
from batchflow.overview.job_filter import JobFilter
from batchflow.overview.job_view import JobView
from batchflow.queue import Queue, Step, queue_name
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.states import JobKind, JobState
from batchflow.store import index, records
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.job_requests import a_job_request
from tests.kit.population import populate

TOKEN = "a-token-of-this-test"
POPULATION = 200
MakeSettings = Callable[..., Settings]


@pytest.fixture
def api(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def crowd(redis_url: str) -> Iterator[Gateway]:
    """A gateway with many jobs, which no test changes."""
    settings = Settings.model_validate({"redis_url": redis_url, "key_prefix": "test-gateway-api"})
    with running_gateway(settings) as gateway:
        populate(gateway.store, range(POPULATION))
        yield gateway


def created(gateway: Gateway, kind: JobKind = JobKind.BATCH, **job_request: Any) -> JobRequest:
    made = a_job_request(kind, **job_request)
    assert gateway.store.run(records.create(made, due_in_s=1_000)).new
    return made


def at_openai(gateway: Gateway, batch_id: str) -> JobRequest:
    job_request = created(gateway)
    gateway.store.run(records.begin(job_request.job_id))
    fields: dict[str, records.Value] = {"batch_id": batch_id, "openai_status": "validating"}
    gateway.store.run(
        records.update(job_request.job_id, source="submit", to=JobState.RUNNING, fields=fields)
    )
    return job_request


def messages(gateway: Gateway, queue: Queue) -> list[dict[str, Any]]:
    """The messages in a queue of Celery."""
    name = queue_name(gateway.settings.key_prefix, queue)
    raw: Any = gateway.store.redis.lrange(name, 0, -1)
    return [json.loads(message) for message in raw]


def reason(answer: httpx2.Response) -> str:
    """The message of an error; checks the form of the error."""
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message"}
    return str(body["error"]["message"])


# The list


def listed(crowd: Gateway, **parameters: Any) -> dict[str, Any]:
    with crowd.client() as client:
        answer = client.get("/api/jobs", params=parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def all_records(crowd: Gateway) -> list[dict[str, Any]]:
    ids = crowd.store.run(index.recent(1_000))
    jobs = crowd.store.run_all([records.get(job_id) for job_id in ids])
    return [JobView.of(job).model_dump(mode="json") for job in jobs if job]


def test_the_list_has_all_jobs_in_redis(crowd: Gateway) -> None:
    page = listed(crowd, limit=POPULATION)
    assert page.keys() == {"jobs", "next"}
    assert page["next"] is None
    by_id = {job["id"]: job for job in all_records(crowd)}
    assert {job["id"]: job for job in page["jobs"]} == by_id
    assert len(by_id) == POPULATION


def test_a_page_has_fifty_jobs_by_default(crowd: Gateway) -> None:
    assert len(listed(crowd)["jobs"]) == 50
    assert len(listed(crowd, limit=1)["jobs"]) == 1


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"state": "running"}, JobFilter(state=frozenset({JobState.RUNNING}))),
        (
            {"state": ["failed", "retryable"], "kind": ["upload", "batch"]},
            JobFilter(
                state=frozenset({JobState.FAILED, JobState.RETRYABLE}),
                kind=frozenset({JobKind.UPLOAD, JobKind.BATCH}),
            ),
        ),
        ({"organization": "org-beta"}, JobFilter(organization="org-beta")),
        ({"execution": "run-11"}, JobFilter(execution="run-11")),
        (
            {"execution": "project-1/dev/run-11/n1-batch"},
            JobFilter(execution="project-1/dev/run-11/n1-batch"),
        ),
        ({"text": "GRÖßE"}, JobFilter(text="größe")),
        (
            {"state": ["succeeded", "failed"], "organization": "org-beta", "text": "gpt"},
            JobFilter(
                state=frozenset({JobState.SUCCEEDED, JobState.FAILED}),
                organization="org-beta",
                text="gpt",
            ),
        ),
    ],
)
def test_each_parameter_filters(
    crowd: Gateway, parameters: dict[str, Any], wanted: JobFilter
) -> None:
    ids = crowd.store.run(index.recent(1_000))
    jobs = crowd.store.run_all([records.get(job_id) for job_id in ids])
    expected = {job.id for job in jobs if job and wanted.matches(job)}
    assert expected
    assert {job["id"] for job in listed(crowd, limit=200, **parameters)["jobs"]} == expected


def test_cursors_lead_through_all_pages(crowd: Gateway) -> None:
    everything = [job["id"] for job in listed(crowd, limit=200)["jobs"]]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = listed(crowd, limit=30, **after)
        found += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == everything


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("state=lost", 422),
        ("state=", 422),
        ("kind=chat", 422),
        ("states=running", 422),
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=many", 422),
        ("limit=9999999999999999999999", 422),
        ("text=" + "x" * 301, 422),
        ("organization=" + "x" * 301, 422),
        ("execution=" + "x" * 301, 422),
        ("after=" + "x" * 301, 422),
        ("after=x", 400),
        ("after=%00", 400),
        ("after=%ff%fe", 400),
    ],
)
def test_an_invalid_parameter_is_refused_by_name(crowd: Gateway, query: str, status: int) -> None:
    with crowd.client() as client:
        answer = client.get(f"/api/jobs?{query}")
    assert answer.status_code == status
    name = query.partition("=")[0] if status == 422 else "cursor"
    assert name in reason(answer)
    assert "x" * 20 not in reason(answer), "the response repeats the value"


@pytest.mark.parametrize("name", ["text", "organization", "execution"])
@pytest.mark.parametrize(
    "value", ["%00", "%0a", "%ff", "%ed%a0%80", "%f0%9f%99%82", "%25", "..%2f..", "%e2%80%ae", "+"]
)
def test_unusual_text_can_be_searched(crowd: Gateway, name: str, value: str) -> None:
    with crowd.client() as client:
        answer = client.get(f"/api/jobs?{name}={value * 3}")
    assert answer.status_code == 200
    assert answer.json() == {"jobs": [], "next": None}


# One job


def test_a_job_is_shown_by_each_of_its_ids(gateway: Gateway, api: httpx2.Client) -> None:
    job_request = at_openai(gateway, "projects/1/batch:7")
    for text in (job_request.job_id, "projects/1/batch:7", "projects%2F1%2Fbatch%3A7"):
        answer = api.get(f"/api/jobs/{text}")
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        assert (shown["id"], shown["batch_id"]) == (job_request.job_id, "projects/1/batch:7")
        assert shown["spec"]["input_file_id"] == "file-1"
        assert [event["source"] for event in shown["timeline"]] == ["create", "submit"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("bf-" + "a" * 26, 404),
        ("batch_unknown", 404),
        ("a/b/c", 404),
        ("", 400),
        ("%20", 400),
        ("%00", 400),
        ("%0a", 400),
        ("..%2f..%2fetc%2fpasswd", 400),
        ("%ff", 400),
        ("x" * 257, 400),
        ("x" * 301, 422),
    ],
)
def test_an_unknown_or_invalid_id_is_refused(api: httpx2.Client, text: str, status: int) -> None:
    answer = api.get(f"/api/jobs/{text}")
    assert answer.status_code == status
    assert reason(answer)


def test_no_secret_is_shown(gateway: Gateway, api: httpx2.Client) -> None:
    job_request = at_openai(gateway, "batch_1")
    everything = "".join(
        api.get(path).text
        for path in ("/api/jobs", f"/api/jobs/{job_request.job_id}", "/api/summary")
    )
    assert not re.search(r"sk-|redis://|password", everything)


# Cancel


def test_a_transfer_is_cancelled_at_once(gateway: Gateway, api: httpx2.Client) -> None:
    job_request = created(gateway, JobKind.UPLOAD)
    answer = api.post(f"/api/jobs/{job_request.job_id}/cancel")
    assert answer.status_code == 200
    done = answer.json()
    assert (done["outcome"], done["delayed"]) == ("cancelled", False)
    assert (done["job"]["id"], done["job"]["state"]) == (job_request.job_id, "cancelled")
    assert done["job"]["message"] == "Cancelled through the API."
    again = api.post(f"/api/jobs/{job_request.job_id}/cancel").json()
    assert (again["outcome"], again["job"]) == ("ended", done["job"])


def test_a_batch_is_cancelled_by_a_worker(gateway: Gateway, api: httpx2.Client) -> None:
    job_request = at_openai(gateway, "projects/1/batch:7")
    done = api.post("/api/jobs/projects/1/batch:7/cancel").json()
    assert (done["outcome"], done["delayed"]) == ("requested", False)
    assert (done["job"]["state"], done["job"]["cancel_requested"]) == ("running", True)
    (message,) = messages(gateway, Queue.SUBMIT)
    assert message["headers"]["task"] == Step.CANCEL
    assert message["headers"]["argsrepr"] == f"('{job_request.job_id}',)"


def test_without_a_broker_a_cancellation_is_delayed(settings: MakeSettings) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with running_gateway(settings(broker_url=nowhere)) as gateway, gateway.client() as api:
        job_request = at_openai(gateway, "batch_1")
        done = api.post("/api/jobs/batch_1/cancel").json()
        assert (done["outcome"], done["delayed"]) == ("requested", True)
        assert gateway.store.run(records.claim_due(10, hold_s=1)) == [job_request.job_id]


@pytest.mark.parametrize(
    ("text", "status"), [("batch_unknown", 404), ("%20", 400), ("", 400), ("x" * 301, 422)]
)
def test_unknown_ids_cannot_be_cancelled(api: httpx2.Client, text: str, status: int) -> None:
    answer = api.post(f"/api/jobs/{text}/cancel")
    assert answer.status_code == status
    assert reason(answer)


def test_a_link_cannot_cancel_a_job(gateway: Gateway, api: httpx2.Client) -> None:
    job_request = created(gateway)
    assert api.get(f"/api/jobs/{job_request.job_id}/cancel").status_code == 404
    assert api.post(f"/api/jobs/{job_request.job_id}").status_code == 405
    elsewhere = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    answer = api.post(f"/api/jobs/{job_request.job_id}/cancel", headers=elsewhere)
    assert answer.status_code == 403
    assert api.get(f"/api/jobs/{job_request.job_id}").json()["state"] == "queued"


# Access, outages, the OpenAPI document


def test_without_redis_the_api_answers_503(settings: MakeSettings) -> None:
    nowhere = f"redis://:hidden-password@127.0.0.1:{free_port()}/0"
    with running_gateway(settings(redis_url=nowhere)) as gateway, gateway.client() as api:
        for path in ("/api/jobs", f"/api/jobs/bf-{'a' * 26}", "/api/summary"):
            answer = api.get(path)
            assert answer.status_code == 503, path
            assert "Redis can't be reached" in reason(answer)
            assert "hidden-password" not in answer.text
        assert api.post(f"/api/jobs/bf-{'a' * 26}/cancel").status_code == 503


def test_the_document_describes_every_route_and_response(api: httpx2.Client) -> None:
    document = api.get("/api/openapi.json").json()
    operations = {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
    }
    assert {"listJobs", "getJob", "cancelJob", "getSummary", "streamTransitions"} <= set(operations)
    for operation in operations.values():
        assert operation["summary"]
        assert operation["description"]
        assert {"200", "401", "403", "429", "503"} <= operation["responses"].keys()
        for status, answer in operation["responses"].items():
            if status != "200":
                assert answer["content"].keys() == {"application/json"}, operation
    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert referred <= document["components"]["schemas"].keys()
