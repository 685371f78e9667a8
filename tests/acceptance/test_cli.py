"""The command line with real processes, no API key and the emulator."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from click.testing import Result

from batchflow.jobs import BatchSpec, Credential, JobRequest, random_job_id
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from batchflow.states import JobState, Stage
from batchflow.store import JobStore, connect, records
from tests.kit.cli import call

REQUESTS = Path(__file__).parents[2] / "examples" / "requests.jsonl"
BATCHFLOW = (sys.executable, "-m", "batchflow.cli")
PATIENCE_S = 60.0


def _start(*arguments: str, cwd: Path, **env: str) -> "subprocess.Popen[str]":
    with (cwd / "stderr.txt").open("w") as stderr:
        return subprocess.Popen(
            [*BATCHFLOW, *arguments],
            cwd=cwd,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )


def _custom_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text("utf-8").splitlines()]


def _eventually(found: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def _end(process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    """Signal a command and check that it leaves no process behind."""
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    return output


def test_run_accounts_for_every_request(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "output.jsonl").write_text("of an earlier run")
    run = _start("run", str(REQUESTS), "--json", cwd=tmp_path)
    output, _ = run.communicate(timeout=PATIENCE_S)
    printed = (tmp_path / "stderr.txt").read_text()
    assert run.returncode == 0, printed
    assert "emulator" in printed
    assert "running" in printed
    assert "Running Task" not in printed

    summary = json.loads(output)
    answered = _custom_ids(results / "output.jsonl")
    failed = _custom_ids(results / "error.jsonl")
    assert sorted(answered + failed) == sorted(_custom_ids(REQUESTS))
    assert len(failed) == 5
    assert all(custom_id.startswith("refused-") for custom_id in failed)
    assert (summary["requests"], summary["answered"], summary["failed"]) == (240, 235, 5)
    assert (summary["unaccounted"], summary["duplicates"]) == (0, 0)
    assert sum(error["count"] for error in summary["errors"]) == 5
    assert summary["tokens"]["total"] > 0
    assert summary["model"] == "gpt-4o-mini"
    assert summary["emulated"]
    assert {path.name for path in results.iterdir()} == {"output.jsonl", "error.jsonl"}


def test_ctrl_c_cancels_the_batch(tmp_path: Path) -> None:
    run = _start("run", str(REQUESTS), cwd=tmp_path)
    _eventually(lambda: "running, batch_" in (tmp_path / "stderr.txt").read_text(), run)
    assert _end(run, signal.SIGINT) == ""
    assert run.returncode == 130
    printed = (tmp_path / "stderr.txt").read_text().splitlines()
    assert re.fullmatch(r"Error: Interrupted; cancelled the batch batch_\w+\.", printed[-1])


def test_up_serves_the_other_commands_and_stops_cleanly(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    ports = ("--port", str(free_port()), "--gateway-port", str(free_port()))
    up = _start("up", *ports, "--data-dir", "data", cwd=tmp_path / "up")
    assert up.stdout
    printed = "".join(iter(up.stdout.readline, "Ready. Press Ctrl-C to stop.\n"))
    url = re.search(r"export BATCHFLOW_REDIS_URL=(\S+)", printed)
    gateway = re.search(r"^gateway +(http://127\.0\.0\.1:\d+)", printed, re.MULTILINE)
    assert url
    assert gateway
    env = {"BATCHFLOW_REDIS_URL": url[1]}
    run = _start("run", str(REQUESTS), cwd=tmp_path, **env)

    def running() -> Any:
        listed = call("list", "--json", "--state", "running", "--kind", "batch", env=env)
        jobs = [job for job in json.loads(listed.stdout)["jobs"] if job["batch_id"]]
        return jobs and jobs[0]

    job = _eventually(running, run)
    shown = call("status", job["batch_id"], env=env)
    assert job["id"] in shown.stdout
    assert call("cancel", job["batch_id"], env=env).exit_code == 0
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 1
    printed = (tmp_path / "stderr.txt").read_text()
    assert "\nError: Cancelled from the command line." in printed
    again = call("cancel", job["id"], env=env)
    assert again.exit_code == 0
    assert "had already ended: cancelled" in again.stdout
    with httpx2.Client(base_url=gateway[1], timeout=20) as http:
        assert job["id"] in http.get(f"/jobs/{job['id']}").text
        # The emulator sends a webhook when the batch ends.
        taken = 'batchflow_webhook_deliveries_total{result="accepted"} 1.0'
        _eventually(lambda: taken in http.get("/metrics").text, up)

    assert _end(up, signal.SIGTERM).endswith("Stopped.\n")
    assert up.returncode == 0
    assert list((tmp_path / "up" / "data").rglob("*.aof"))


@pytest.mark.parametrize("option", ["--port", "--gateway-port"])
def test_up_reports_a_port_in_use(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        ports = {"--port": str(free_port()), "--gateway-port": str(free_port())} | {option: number}
        answer = call("up", *(part for pair in ports.items() for part in pair))
    assert answer.exit_code == 2
    assert f"Port {number} is in use. Choose another one with {option}." in answer.stderr


@pytest.fixture
def store(redis_url: str, key_prefix: str) -> Iterator[JobStore]:
    settings = Settings.model_validate({"redis_url": redis_url, "key_prefix": key_prefix})
    store = connect(settings)
    yield store
    store.redis.close()


@pytest.fixture
def ask(redis_url: str, key_prefix: str) -> Callable[..., Result]:
    env = {"BATCHFLOW_REDIS_URL": redis_url, "BATCHFLOW_KEY_PREFIX": key_prefix}
    return partial(call, env=env)


def test_status_finds_a_job_by_either_id(store: JobStore, ask: Callable[..., Result]) -> None:
    job_id = _batch_job(store)
    by_job, by_batch = ask("status", job_id), ask("status", f"batch_{job_id}", "--json")
    assert by_job.exit_code == by_batch.exit_code == 0
    assert "3 answered and 1 failed of 10" in by_job.stdout
    data = json.loads(by_batch.stdout)
    assert (data["id"], data["state"], data["phase"]) == (job_id, "running", "RUNNING")
    assert [event["state"] for event in data["timeline"]] == ["queued", "running"]
    timeline = [line.split()[2:] for line in by_job.stdout.splitlines()[-2:]]
    assert timeline == [["queued", "create"], ["running", "test"]]


@pytest.mark.parametrize("name", ["status", "cancel"])
@pytest.mark.parametrize("id_", ["bf-" + "a" * 26, "batch_unknown"])
def test_an_unknown_id(ask: Callable[..., Result], name: str, id_: str) -> None:
    result = ask(name, id_, "--json")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There is no job ")
    assert not result.stdout


def test_list_filters_limits_and_counts(store: JobStore, ask: Callable[..., Result]) -> None:
    ids = [_batch_job(store) for _ in range(5)]
    store.run(records.update(ids[0], source="test", to=JobState.FAILED))
    assert json.loads(ask("list", "--json").stdout)["jobs"][0]["id"] == ids[0]
    two = ask("list", "--state", "running", "--limit", "2")
    assert len(re.findall("^bf-", two.stdout, re.MULTILINE)) == 2
    assert two.stdout.endswith("5 jobs in total: 4 running, 1 failed.\n")
    none = ask("list", "--kind", "upload")
    assert none.stdout == "No job matches. 5 jobs in total: 4 running, 1 failed.\n"


def test_list_has_the_filters_of_the_api(store: JobStore, ask: Callable[..., Result]) -> None:
    ids = [
        _batch_job(store, organization=organization, execution=f"shop/development/{name}/n0")
        for organization, name in (("org-a", "f1"), ("org-a", "f2"), ("org-b", "f1"))
    ]

    def found(*options: str) -> list[str]:
        return [job["id"] for job in json.loads(ask("list", "--json", *options).stdout)["jobs"]]

    assert found() == ids[::-1]
    assert found("--organization", "org-a") == [ids[1], ids[0]]
    assert found("--execution", "f1") == [ids[2], ids[0]]
    assert found("--execution", "shop/development/f2") == [ids[1]]
    assert found("--text", ids[1].upper()) == [ids[1]]
    assert found("--kind", "upload", "--kind", "download") == []
    assert found("--kind", "upload", "--kind", "batch", "--state", "running") == ids[::-1]


def test_list_continues_after_a_page(store: JobStore, ask: Callable[..., Result]) -> None:
    ids = [_batch_job(store) for _ in range(3)]
    first = json.loads(ask("list", "--json", "--limit", "2").stdout)
    assert [job["id"] for job in first["jobs"]] == ids[:0:-1]
    printed = ask("list", "--limit", "2").stdout
    assert f"There are more jobs: --after '{first['next']}'\n" in printed
    rest = json.loads(ask("list", "--json", "--after", first["next"]).stdout)
    assert [job["id"] for job in rest["jobs"]] == ids[:1]
    assert rest["next"] is None
    wrong = ask("list", "--after", "nonsense")
    assert wrong.exit_code == 2
    assert "Not a valid cursor." in wrong.stderr


def test_cancel_sends_a_request_to_the_workers(store: JobStore, ask: Callable[..., Result]) -> None:
    job_id = _batch_job(store)
    result = ask("cancel", job_id, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["outcome"] == "requested"
    job = store.run(records.get(job_id))
    assert job
    assert job.cancel_requested


def _batch_job(store: JobStore, *, organization: str | None = None, execution: str = "") -> str:
    credential = Credential(organization=organization)
    spec = BatchSpec(credential=credential, input_file_id="file-1", config={})
    job_request = JobRequest(job_id=random_job_id(), spec=spec, execution=execution)
    store.run(records.create(job_request, due_in_s=600))
    store.run(records.begin(job_request.job_id))
    store.run(
        records.update(
            job_request.job_id,
            source="test",
            to=JobState.RUNNING,
            stage=Stage.IN_PROGRESS,
            fields={
                "batch_id": f"batch_{job_request.job_id}",
                "total": 10,
                "completed": 3,
                "failed": 1,
            },
        )
    )
    return job_request.job_id
