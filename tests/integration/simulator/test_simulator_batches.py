"""Batches from `validating` to their end."""

from typing import Any

import pytest
from openai.types import Batch

from tests.kit.processes import until
from tests.kit.simulator import ENDED, SimulatorClient, line, requests


def test_a_batch_passes_through_all_statuses_in_order(simulator: SimulatorClient) -> None:
    pace = {"validating_s": 0.2, "in_progress_s": 0.4, "finalizing_s": 0.2}
    simulator.control("PATCH", "/config", pace)
    batch = simulator.create(requests(20), metadata={"job": "a"})
    assert batch.status == "validating"

    seen: list[Batch] = [batch]
    while seen[-1].status not in ENDED:
        seen.append(simulator.client.batches.retrieve(batch.id))
    statuses = list(dict.fromkeys(found.status for found in seen))
    assert statuses == ["validating", "in_progress", "finalizing", "completed"]

    working = [found.request_counts for found in seen if found.status == "in_progress"]
    progress = [counts.completed for counts in working if counts]
    assert progress == sorted(progress)
    assert any(0 < done < 20 for done in progress)

    last = seen[-1]
    assert last.metadata == {"job": "a"}
    assert last.model == "gpt-test"
    stamps = (last.created_at, last.in_progress_at, last.finalizing_at, last.completed_at)
    assert list(stamps) == sorted(stamp for stamp in stamps if stamp is not None)
    assert last.expires_at == last.created_at + 86_400


def test_requests_that_openai_would_refuse_end_in_the_error_file(
    simulator: SimulatorClient,
) -> None:
    content = b"".join(
        [
            line("good"),
            line("hot", temperature=3),
            line("mute", messages=None),
            line("negative", max_tokens=-1),
        ]
    )
    batch = simulator.finished(simulator.create(content))

    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 1, 3)

    output, errors = simulator.lines(batch.output_file_id), simulator.lines(batch.error_file_id)
    good = output["good"]
    assert list(output) == ["good"]
    assert good["id"].startswith("batch_req_")
    assert good["error"] is None
    assert good["response"]["status_code"] == 200
    assert "good" in good["response"]["body"]["choices"][0]["message"]["content"]

    assert {name: item["response"]["status_code"] for name, item in errors.items()} == {
        "hot": 400,
        "mute": 400,
        "negative": 400,
    }
    assert errors["hot"]["response"]["body"]["error"]["param"] == "temperature"
    assert errors["mute"]["response"]["body"]["error"]["param"] == "messages"


def test_a_configured_share_of_requests_fails_and_always_the_same(
    simulator: SimulatorClient,
) -> None:
    simulator.control("PATCH", "/config", {"request_failure_share": 0.3, "seed": 7})
    first, second = (simulator.finished(simulator.create(requests(200))) for _ in range(2))

    failed = set(simulator.lines(first.error_file_id))
    assert 30 < len(failed) < 90
    assert failed == set(simulator.lines(second.error_file_id))
    assert len(simulator.lines(first.output_file_id)) == 200 - len(failed)


def test_a_batch_whose_every_request_fails_has_no_output_file(simulator: SimulatorClient) -> None:
    batch = simulator.finished(simulator.create(requests(3, model="no-such-model")))

    assert batch.status == "completed"
    assert batch.output_file_id is None
    errors = simulator.lines(batch.error_file_id)
    assert len(errors) == 3
    assert errors["r-0"]["response"]["status_code"] == 404


def test_a_batch_without_failures_has_no_error_file(simulator: SimulatorClient) -> None:
    batch = simulator.finished(simulator.create(requests(2)))
    assert batch.error_file_id is None
    assert batch.usage is not None
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0


def test_results_come_in_another_order_than_requests(simulator: SimulatorClient) -> None:
    batch = simulator.finished(simulator.create(requests(100)))
    job_request = list(simulator.lines(batch.output_file_id))
    assert job_request != [f"r-{n}" for n in range(100)]
    assert sorted(job_request) == sorted(f"r-{n}" for n in range(100))

    simulator.control("PATCH", "/config", {"shuffle_output": False})
    batch = simulator.finished(simulator.create(requests(100)))
    assert list(simulator.lines(batch.output_file_id)) == [f"r-{n}" for n in range(100)]


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        ("/v1/responses", {"input": "hello"}, "response"),
        ("/v1/embeddings", {"input": ["a", "b"], "dimensions": 4}, "list"),
        ("/v1/completions", {"prompt": "hello"}, "text_completion"),
        ("/v1/moderations", {"input": "hello"}, None),
        ("/v1/images/generations", {"prompt": "a cat"}, None),
        ("/v1/videos", {"prompt": "a cat"}, "video"),
    ],
)
def test_every_endpoint_has_an_answer(
    simulator: SimulatorClient, endpoint: str, body: dict[str, Any], kind: str | None
) -> None:
    content = line("one", url=endpoint, messages=None, **body)
    batch = simulator.finished(simulator.create(content, endpoint=endpoint))
    answer = simulator.lines(batch.output_file_id)["one"]["response"]["body"]
    assert answer.get("object") == kind


def test_file_ids_can_appear_after_completed(simulator: SimulatorClient) -> None:
    simulator.control("PATCH", "/config", {"output_file_lag_s": 0.5})
    batch = simulator.finished(simulator.create(requests(1)))
    assert batch.output_file_id is None
    until(lambda: simulator.client.batches.retrieve(batch.id).output_file_id, "an output file")
