"""Webhooks of the simulator."""

import json

import openai
import pytest

from tests.kit.processes import until
from tests.kit.simulator import ENDED, SECRET, SimulatorClient, WebhookReceiver, requests


@pytest.mark.parametrize("status", ENDED)
def test_the_end_of_a_batch_is_announced_and_signed(
    simulator: SimulatorClient, receiver: WebhookReceiver, status: str
) -> None:
    webhook = {"webhook_url": receiver.url, "webhook_secret": SECRET}
    simulator.control("PATCH", "/config", webhook)
    simulator.control("POST", "/next", {"status": status})
    batch = simulator.create(requests(1))
    until(lambda: receiver.received, "a webhook")

    headers, body = receiver.received[0]
    event = simulator.client.webhooks.unwrap(body, headers, secret=SECRET)
    assert event.type == f"batch.{status}"
    assert event.id.startswith("evt_")
    assert json.loads(body)["data"] == {"id": batch.id}
    assert json.loads(body)["object"] == "event"
    assert simulator.status_of(batch) == status


def test_a_refused_delivery_is_tried_again(
    simulator: SimulatorClient, receiver: WebhookReceiver
) -> None:
    receiver.statuses = [500, 302]
    simulator.control(
        "PATCH",
        "/config",
        {"webhook_url": receiver.url, "webhook_secret": SECRET, "webhook_backoff_s": 0.05},
    )
    simulator.create(requests(1))
    until(lambda: simulator.control("GET", "/stats")["webhooks"].get("delivered"), "delivered")
    names = {headers["webhook-id"] for headers, _ in receiver.received}
    assert (len(receiver.received), len(names)) == (3, 1)


def test_deliveries_can_be_dropped_and_doubled(
    simulator: SimulatorClient, receiver: WebhookReceiver
) -> None:
    webhook = {"webhook_url": receiver.url, "webhook_secret": SECRET}
    simulator.control("PATCH", "/config", {**webhook, "webhook_drop_share": 1})
    simulator.create(requests(1))
    until(lambda: simulator.control("GET", "/stats")["webhooks"].get("dropped"), "dropped")

    twice = {"webhook_drop_share": 0, "webhook_duplicate_share": 1, "webhook_reorder_s": 0.1}
    simulator.control("PATCH", "/config", twice)
    simulator.create(requests(1))
    until(lambda: len(receiver.received) == 2, "two webhooks")
    assert len({event["id"] for event in receiver.events()}) == 1


def test_endpoints_are_managed_through_the_sdk(
    simulator: SimulatorClient, receiver: WebhookReceiver
) -> None:
    webhooks = simulator.client.webhooks
    made = webhooks.create(
        name="mine", url=receiver.url, event_types=["batch.completed", "batch.failed"]
    )
    assert made.signing_secret.startswith("whsec_")
    assert [endpoint.id for endpoint in webhooks.list()] == [made.id]
    assert "batch.expired" in webhooks.event_types.list().data

    simulator.finished(simulator.create(requests(1)))
    until(lambda: receiver.received, "a webhook")
    headers, body = receiver.received[0]
    assert webhooks.unwrap(body, headers, secret=made.signing_secret).type == "batch.completed"

    rotated = webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != made.signing_secret
    tested = webhooks.test(made.id, event_type="batch.expired")
    assert (tested.success, tested.status_code) == (True, 204)
    headers, body = receiver.received[1]
    for secret in (made.signing_secret, rotated.signing_secret):
        assert webhooks.unwrap(body, headers, secret=secret).type == "batch.expired"

    updated = webhooks.update(made.id, name="renamed", event_types=["batch.failed"])
    assert (updated.name, updated.event_types) == ("renamed", ["batch.failed"])
    assert webhooks.retrieve(made.id).name == "renamed"
    assert webhooks.delete(made.id).deleted is True
    assert list(webhooks.list()) == []


def test_a_wrong_endpoint_is_refused(simulator: SimulatorClient) -> None:
    with pytest.raises(openai.BadRequestError):
        simulator.client.webhooks.create(name="x", url="ftp://x", event_types=["batch.failed"])
    closed = simulator.client.webhooks.create(
        name="x", url="http://127.0.0.1:1/", event_types=["batch.failed"]
    )
    with pytest.raises(openai.BadRequestError, match="could not be reached"):
        simulator.client.webhooks.test(closed.id, event_type="batch.failed")
