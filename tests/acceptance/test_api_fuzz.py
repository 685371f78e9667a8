"""The status API against its own OpenAPI document: every request gets a documented response.

schemathesis generates valid and invalid requests from the gateway's document.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, settings
from limits import RateLimitItemPerSecond
from schemathesis import Case, Config
from schemathesis.checks import CheckFunction, ignored_auth, positive_data_acceptance

from batchflow.gateway.app import make_gateway
from batchflow.gateway.security import rate_limit
from batchflow.settings import Settings
from batchflow.states import JobState
from batchflow.store import JobStore, records
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.job_requests import a_job_request
from tests.kit.population import populate

TOKEN = "a-token-of-this-test"
document = make_gateway(Settings.model_validate({"redis_url": "redis://127.0.0.1:1/0"})).openapi()


# The session sends the token, if there is one.
config = Config.from_dict({"generation": {"with-security-parameters": False}})
api = schemathesis.openapi.from_dict(document, config=config)
OPERATIONS = ("listJobs", "getJob", "cancelJob", "getSummary")
STREAM = "streamTransitions"


def repeatable(max_examples: int) -> settings:
    """Generate the same ``max_examples`` requests of an operation in every run, besides those for
    its limits and examples."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )


@dataclass(frozen=True)
class Fuzzed:
    gateway: Gateway
    session: requests.Session

    def check(self, case: Case[Any], *excluded_checks: CheckFunction) -> None:
        """Send a request, and compare the response with the document."""
        # A schema can't express which texts are ids or cursors.
        excluded = [positive_data_acceptance, *excluded_checks]
        case.call_and_validate(
            self.gateway.url, session=self.session, excluded_checks=excluded, timeout=10
        )


@contextmanager
def fuzzed(redis_url: str, **values: str) -> Iterator[Fuzzed]:
    """Run a gateway with jobs, including those in the document's examples."""
    chosen = {"redis_url": redis_url, "key_prefix": f"test-fuzz-{uuid4()}", **values}
    with pytest.MonkeyPatch.context() as patch, requests.Session() as session:
        patch.setattr(rate_limit, "REQUESTS", RateLimitItemPerSecond(1_000_000))
        with running_gateway(Settings.model_validate(chosen)) as gateway:
            populate(gateway.store, range(120))
            make_examples(gateway.store)
            yield Fuzzed(gateway, session)


@pytest.fixture(scope="module")
def open_gateway(redis_url: str) -> Iterator[Fuzzed]:
    with fuzzed(redis_url) as open_gateway:
        yield open_gateway


@pytest.fixture(scope="module")
def locked_gateway(redis_url: str) -> Iterator[Fuzzed]:
    with fuzzed(redis_url, api_token=TOKEN) as locked_gateway:
        locked_gateway.session.headers["Authorization"] = f"Bearer {TOKEN}"
        yield locked_gateway


def make_examples(store: JobStore) -> None:
    batch = a_job_request(job_id="bf-mctgn4lcdvhclm2p4qc7gkxbae")
    store.run(records.create(batch, due_in_s=1_000))
    store.run(records.begin(batch.job_id))
    fields: dict[str, records.Value] = {"batch_id": "batch_68f0c1"}
    store.run(records.update(batch.job_id, source="test", to=JobState.RUNNING, fields=fields))


@repeatable(500)
def documented(case: Case[Any], open_gateway: Fuzzed) -> None:
    open_gateway.check(case, ignored_auth)


@repeatable(100)
def documented_with_a_token(case: Case[Any], locked_gateway: Fuzzed) -> None:
    locked_gateway.check(case)


# One by one: under pytest 9.2, schemathesis gives all operations of a test the same id, and
# pytest-xdist runs only one test per id.
list_jobs, get_job, cancel_job, get_summary = (
    api.include(operation_id=name).parametrize() for name in OPERATIONS
)
test_jobs_are_listed_as_documented = list_jobs(documented)
test_a_job_is_shown_as_documented = get_job(documented)
test_a_job_is_cancelled_as_documented = cancel_job(documented)
test_the_summary_is_as_documented = get_summary(documented)
test_jobs_are_listed_to_a_token_as_documented = list_jobs(documented_with_a_token)
test_a_job_is_shown_to_a_token_as_documented = get_job(documented_with_a_token)
test_a_job_is_cancelled_by_a_token_as_documented = cancel_job(documented_with_a_token)
test_the_summary_for_a_token_is_as_documented = get_summary(documented_with_a_token)


def test_all_operations_are_covered() -> None:
    paths = document["paths"].values()
    operations = {operation["operationId"] for path in paths for operation in path.values()}
    assert operations == {*OPERATIONS, STREAM}


@api.include(operation_id=STREAM).parametrize()
@repeatable(200)
def test_a_stream_begins_or_is_refused_with_a_reason(case: Case[Any], open_gateway: Fuzzed) -> None:
    # A stream does not end, so schemathesis can't validate the whole response.
    request = case.as_transport_kwargs(base_url=open_gateway.gateway.url)
    with open_gateway.session.request(**request, stream=True, timeout=10) as answer:
        if answer.status_code == 200:
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert next(answer.iter_lines())
        else:
            assert answer.status_code in (400, 405, 422)
            assert answer.json()["error"]["message"]
