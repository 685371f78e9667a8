"""Outages of the simulator."""

import openai
import pytest

from tests.kit.processes import until
from tests.kit.simulator import CHAT, SimulatorClient, requests


@pytest.mark.parametrize("status", [500, 503])
def test_an_outage_ends_after_its_count(simulator: SimulatorClient, status: int) -> None:
    outage = {"status": status, "count": 2, "operations": ["batches.*"]}
    simulator.control("POST", "/outage", outage)
    simulator.client.files.list()
    for _ in range(2):
        with pytest.raises(openai.InternalServerError) as failure:
            simulator.client.batches.list()
        assert failure.value.status_code == status
    simulator.client.batches.list()
    calls = simulator.control("GET", "/stats")["calls"]
    assert calls["batches.list"] == {str(status): 2, "200": 1}
    assert calls["files.list"] == {"200": 1}


def test_a_rate_limit_says_when_to_try_again(simulator: SimulatorClient) -> None:
    simulator.control("POST", "/outage", {"status": 429, "retry_after_s": 7})
    with pytest.raises(openai.RateLimitError) as limited:
        simulator.client.batches.list()
    assert limited.value.response.headers["retry-after"] == "7"
    simulator.control("DELETE", "/outage")
    simulator.client.batches.list()


@pytest.mark.parametrize("answer", ["drop", "status", "garbage"])
def test_a_reply_can_be_lost_after_the_batch_was_created(
    simulator: SimulatorClient, answer: str
) -> None:
    file = simulator.upload(requests(1))
    outage = {"answer": answer, "after_acting": True, "operations": ["batches.create"]}
    simulator.control("POST", "/outage", outage)
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError, ValueError)):
        simulator.client.batches.create(
            completion_window="24h", endpoint=CHAT, input_file_id=file.id
        )
    assert len(simulator.client.batches.list().data) == 1
    assert simulator.control("GET", "/stats")["batches_created"] == 1


def test_a_dropped_call_does_nothing_by_default(simulator: SimulatorClient) -> None:
    file = simulator.upload(requests(1))
    simulator.control("POST", "/outage", {"answer": "drop", "count": 1})
    with pytest.raises(openai.APIConnectionError):
        simulator.client.batches.create(
            completion_window="24h", endpoint=CHAT, input_file_id=file.id
        )
    assert simulator.client.batches.list().data == []
    assert simulator.control("GET", "/stats")["calls"]["batches.create"] == {"dropped": 1}


def test_a_batch_can_be_created_after_the_client_has_given_up(simulator: SimulatorClient) -> None:
    file = simulator.upload(requests(1))
    outage = {"answer": "normal", "acts_after_s": 2, "operations": ["batches.create"]}
    simulator.control("POST", "/outage", outage)
    impatient = simulator.client.with_options(timeout=1, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        impatient.batches.create(completion_window="24h", endpoint=CHAT, input_file_id=file.id)
    assert simulator.client.batches.list().data == []
    until(lambda: simulator.client.batches.list().data, "the batch")


def test_a_file_can_be_stored_after_the_client_has_given_up(simulator: SimulatorClient) -> None:
    outage = {"answer": "normal", "acts_after_s": 2, "operations": ["files.create"]}
    simulator.control("POST", "/outage", outage)
    impatient = simulator.client.with_options(timeout=1, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        impatient.files.create(file=("late.jsonl", requests(1)), purpose="batch")
    assert simulator.client.files.list().data == []
    until(lambda: simulator.client.files.list().data, "the file")


def test_garbage_instead_of_json(simulator: SimulatorClient) -> None:
    simulator.control("POST", "/outage", {"answer": "garbage"})
    response = simulator.http.get("/v1/batches", headers={"authorization": "Bearer sk-test"})
    assert response.status_code == 200
    with pytest.raises(ValueError, match="Expecting value"):
        response.json()


def test_a_download_can_break_in_the_middle(simulator: SimulatorClient) -> None:
    file = simulator.upload(requests(500))
    simulator.control("POST", "/outage", {"answer": "cut", "operations": ["files.content"]})
    with pytest.raises(openai.APIConnectionError):
        simulator.client.files.content(file.id)


def test_an_outage_ends_by_itself(simulator: SimulatorClient) -> None:
    simulator.control("POST", "/outage", {"duration_s": 0.3})
    with pytest.raises(openai.InternalServerError):
        simulator.client.batches.list()
    until(lambda: simulator.control("GET", "/outage")["data"] == [], "the outage's end")
    simulator.client.batches.list()


def test_an_outage_during_an_upload_is_answered(simulator: SimulatorClient) -> None:
    simulator.control("PATCH", "/config", {"outages": [{"operations": ["files.create"]}]})
    with pytest.raises(openai.InternalServerError):
        simulator.upload(b"x" * 3_000_000)
    assert simulator.control("GET", "/files")["data"] == []
