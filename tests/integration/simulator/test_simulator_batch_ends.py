"""Batches that fail, expire or are cancelled."""

import openai
import pytest

from tests.kit.processes import until
from tests.kit.simulator import ENDED, SimulatorClient, line, requests


@pytest.mark.parametrize(
    ("content", "code", "param", "at"),
    [
        (b"\n", "empty_file", None, None),
        (line("a") + b"{not json\n", "invalid_json_line", None, 2),
        (line("a") + b"\n" + line("b"), "invalid_json_line", None, 2),
        (line("a") + line("a"), "duplicate_custom_id", "custom_id", 2),
        (line("a", url="/v1/embeddings"), "invalid_url", "url", 1),
        (line("a") + line("b", model="gpt-other"), "mismatched_model", "body.model", 2),
        (b'{"method":"POST"}', "missing_required_parameter", "custom_id", 1),
        (b"".join(line(str(n)) for n in range(6)), "too_many_tasks", None, None),
    ],
)
def test_a_batch_with_a_bad_file_fails(
    simulator: SimulatorClient, content: bytes, code: str, param: str | None, at: int | None
) -> None:
    simulator.control("PATCH", "/config", {"max_requests": 5})
    batch = simulator.finished(simulator.create(content))

    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.output_file_id is None
    assert batch.errors is not None
    assert batch.errors.data
    error = batch.errors.data[0]
    assert (error.code, error.param, error.line) == (code, param, at)
    assert error.message


def test_a_batch_that_is_not_done_in_time_expires_with_what_is_done(
    simulator: SimulatorClient,
) -> None:
    simulator.control("PATCH", "/config", {"in_progress_s": 2, "completion_window_s": 1})
    batch = simulator.finished(simulator.create(requests(10)))

    assert batch.status == "expired"
    assert batch.expired_at is not None
    output, errors = simulator.lines(batch.output_file_id), simulator.lines(batch.error_file_id)
    assert len(output) + len(errors) == 10
    assert "r-0" in output
    late = errors["r-9"]
    assert late["response"] is None
    assert late["error"]["code"] == "batch_expired"


def test_a_cancelled_batch_keeps_what_is_done(simulator: SimulatorClient) -> None:
    simulator.control("PATCH", "/config", {"in_progress_s": 3, "cancelling_s": 0.2})
    batch = simulator.create(requests(30))

    def some_done() -> bool:
        counts = simulator.client.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 0

    until(some_done, "completed requests")
    cancelling = simulator.client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    assert simulator.client.batches.cancel(batch.id).status == "cancelling"

    cancelled = simulator.finished(batch)
    assert cancelled.status == "cancelled"
    assert cancelled.cancelling_at is not None
    assert cancelled.cancelled_at is not None
    assert 0 < len(simulator.lines(cancelled.output_file_id)) < 30


def test_an_ended_batch_can_not_be_cancelled(simulator: SimulatorClient) -> None:
    batch = simulator.finished(simulator.create(requests(1)))
    with pytest.raises(openai.ConflictError, match="'completed'"):
        simulator.client.batches.cancel(batch.id)


def test_a_batch_that_has_barely_begun_can_be_cancelled(simulator: SimulatorClient) -> None:
    simulator.control("PATCH", "/config", {"validating_s": 60})
    batch = simulator.create(requests(1))
    simulator.client.batches.cancel(batch.id)
    cancelled = simulator.finished(batch)
    assert (cancelled.status, cancelled.output_file_id) == ("cancelled", None)


def test_the_next_batches_fail_as_ordered(simulator: SimulatorClient) -> None:
    job_request = {"status": "failed", "code": "token_limit_exceeded", "count": 2}
    simulator.control("POST", "/next", job_request)
    ended = [simulator.finished(simulator.create(requests(1))) for _ in range(3)]

    assert [batch.status for batch in ended] == ["failed", "failed", "completed"]
    assert ended[0].errors is not None
    assert ended[0].errors.data
    assert ended[0].errors.data[0].code == "token_limit_exceeded"
    assert "Enqueued token limit reached for gpt-test" in (ended[0].errors.data[0].message or "")


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_the_next_batch_stops_short_as_ordered(simulator: SimulatorClient, status: str) -> None:
    simulator.control("POST", "/next", {"status": status, "done_share": 0.25})
    batch = simulator.finished(simulator.create(requests(8)))
    assert batch.status == status
    assert len(simulator.lines(batch.output_file_id)) == 2
    assert len(simulator.lines(batch.error_file_id)) == 6


def test_batches_beyond_the_token_limit_fail_until_there_is_room(
    simulator: SimulatorClient,
) -> None:
    slow = {"in_progress_s": 600, "enqueued_token_limit": 15}
    simulator.control("PATCH", "/config", slow)
    first = simulator.create(requests(10))
    until(lambda: simulator.status_of(first) == "in_progress", "in_progress")

    refused = simulator.finished(simulator.create(requests(10)))
    assert refused.errors is not None
    assert refused.errors.data
    assert refused.errors.data[0].code == "token_limit_exceeded"

    simulator.control("POST", f"/batches/{first.id}/end", {"status": "completed"})
    third = simulator.create(requests(10))
    until(lambda: simulator.status_of(third) == "in_progress", "in_progress")


def test_a_status_that_openai_does_not_list_is_shown_for_a_while(
    simulator: SimulatorClient,
) -> None:
    simulator.control("POST", "/next", {"status": "paused_by_provider", "shown_s": 0.3})
    batch = simulator.create(requests(1))
    until(lambda: simulator.status_of(batch) == "paused_by_provider", "paused_by_provider")
    assert simulator.finished(batch).status == "completed"


@pytest.mark.parametrize("status", ENDED)
def test_a_live_batch_can_be_ended(simulator: SimulatorClient, status: str) -> None:
    simulator.control("PATCH", "/config", {"in_progress_s": 600})
    batch = simulator.create(requests(4))
    until(lambda: simulator.status_of(batch) == "in_progress", "in_progress")
    ended = simulator.control("POST", f"/batches/{batch.id}/end", {"status": status})
    assert ended["status"] == status
    assert simulator.status_of(batch) == status


def test_a_batch_fails_when_its_input_is_deleted_too_early(simulator: SimulatorClient) -> None:
    simulator.control("PATCH", "/config", {"validating_s": 0.3})
    batch = simulator.create(requests(1))
    simulator.client.files.delete(batch.input_file_id)
    assert simulator.finished(batch).status == "failed"
