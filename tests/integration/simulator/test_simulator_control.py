"""The simulator's settings, options and signals."""

import signal

import httpx2
import pytest

from tests.kit.cli import call
from tests.kit.simulator import SimulatorClient, requests, running_simulator


def test_settings_can_be_read_changed_and_reset(simulator: SimulatorClient) -> None:
    before = simulator.control("GET", "/config")
    assert before["validating_s"] == 0
    changed = simulator.control("PATCH", "/config", {"seed": 3, "extra_status": "resting"})
    assert (changed["seed"], changed["extra_status"]) == (3, "resting")
    simulator.create(requests(1))

    simulator.control("POST", "/reset")
    assert simulator.control("GET", "/config")["extra_status"] is None
    assert simulator.control("GET", "/config")["validating_s"] == 1.0
    assert simulator.control("GET", "/batches")["data"] == []
    assert simulator.control("GET", "/files")["data"] == []
    assert simulator.control("GET", "/stats")["calls"] == {}


def test_a_live_batch_keeps_the_settings_of_its_creation(simulator: SimulatorClient) -> None:
    simulator.control("PATCH", "/config", {"in_progress_s": 600})
    slow = simulator.create(requests(1))
    simulator.control("PATCH", "/config", {"in_progress_s": 0})
    assert simulator.finished(simulator.create(requests(1))).status == "completed"
    assert simulator.status_of(slow) in ("validating", "in_progress")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_options_set_it_up_and_signals_end_it(end: signal.Signals) -> None:
    options = ("--validating-s", "0", "--no-shuffle-output", "--refused-key", "sk-old")
    outage = ("--outage", '{"status": 429, "operations": ["files.list"]}')
    with running_simulator(*options, *outage) as (process, base_url):
        root = base_url.removesuffix("/v1")
        config = httpx2.get(f"{root}/simulator/config").json()
        assert (config["validating_s"], config["shuffle_output"]) == (0, False)
        key = {"authorization": "Bearer sk-new"}
        assert httpx2.get(f"{base_url}/files", headers=key).status_code == 429
        assert httpx2.get(f"{base_url}/batches", headers=key).status_code == 200
        process.send_signal(end)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--webhook-secret", "hunter2"), "must be whsec_ followed by base64"),
        (("--request-failure-share", "2"), "less than or equal to 1"),
        (("--validating-s", "soon"), "'soon' is not a valid float"),
        (("--outage", "{"), "Invalid JSON"),
        (("--outage", '{"status": 200}'), "status: Input should be greater than or equal to 400"),
    ],
)
def test_wrong_options_are_explained(options: tuple[str, ...], problem: str) -> None:
    result = call("simulate", "--port", "0", *options)
    assert result.exit_code == 2
    assert f"Error: Invalid value for '{options[0]}': " in result.stderr
    assert problem in result.stderr
    assert "hunter2" not in result.stderr
    assert result.stdout == ""
