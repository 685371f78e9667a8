"""The commands for operators, against a stack of real processes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import Result

from batchflow.openai_client.webhook_events import BATCH_EVENTS, WEBHOOK_PATH
from batchflow.queue import Queue
from batchflow.settings import Settings
from batchflow.stack.processes import free_port
from tests.kit.cli import call
from tests.kit.deliveries import SECRET
from tests.kit.flyte_client import Node, Task, inputs_of, template_of
from tests.kit.flyte_tasks import batch_task, requests
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.processes import BIN, until
from tests.kit.stack import Stack

pytestmark = pytest.mark.timeout(240)

#: Shows the cursor and restores the previous screen.
_RESTORED = "\x1b[?25h\x1b[?1049l"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack for this module alone, so that the doctor finds nothing from other tests."""
    with Stack(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture
def stack(fleet: Stack) -> Iterator[Stack]:
    yield fleet
    fleet.heal()


# Doctor


@pytest.fixture
def healthy(stack: Stack) -> Iterator[dict[str, str]]:
    """The environment of a doctor for a stack without problems."""
    redis: Any = stack.redis
    redis.config_set("appendonly", "yes")
    # Wait for the processes that the previous test stopped.
    last_seen, heartbeats, an_hour_ago = (
        stack.key("pulse"),
        stack.key("workers"),
        time.time() - 3_600,
    )
    redis.hset(last_seen, "sweep", an_hour_ago)
    until(lambda: float(redis.hget(last_seen, "sweep")) > an_hour_ago, "a sweep")
    until(lambda: redis.zcount(heartbeats, time.time() - 60, "+inf"), "a worker's heartbeat")
    url = f"{stack.gateway_url}{WEBHOOK_PATH}"
    with stack.emulator.sdk("org-default") as client:
        endpoint = client.webhooks.create(name="x", url=url, event_types=[*BATCH_EVENTS])
        yield stack.env(
            stack.worker_env()
            | {
                "BATCHFLOW_PUBLIC_URL": stack.gateway_url,
                "BATCHFLOW_API_TOKEN": "t" * 32,
                "OPENAI_WEBHOOK_SECRET": SECRET,
            }
        )
        stack.emulator.heal()
        client.webhooks.delete(endpoint.id)
    redis.config_set("appendonly", "no")


class Report:
    """The output of a doctor in this process."""

    def __init__(self, env: Mapping[str, str]) -> None:
        result = call("doctor", "--json", env=env)
        self.exit_code = result.exit_code
        self.text = result.output
        data = json.loads(result.stdout)
        assert data["ok"] is (self.exit_code == 0)
        self.findings = {
            f"{section['name']}: {finding['what']}": finding
            for section in data["sections"]
            for finding in section["findings"]
        }

    def at(self, level: str) -> set[str]:
        return {what for what, finding in self.findings.items() if finding["level"] == level}


def test_a_doctor_finds_no_problem(healthy: dict[str, str], stack: Stack) -> None:
    doctor = subprocess.run(
        [BIN / "batchflow", "doctor"],
        check=False,
        env=healthy,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert doctor.returncode == 0, doctor.stdout
    assert doctor.stdout.endswith("\nAll is well.\n"), doctor.stdout
    assert "\x1b" not in doctor.stdout
    assert re.search(r"ok +workers on files +1: worker@", doctor.stdout)
    assert stack.api_key not in doctor.stdout + doctor.stderr
    assert SECRET not in doctor.stdout + doctor.stderr


def test_a_doctor_warns_about_settings(healthy: dict[str, str], stack: Stack) -> None:
    redis: Any = stack.redis
    redis.config_set("appendonly", "no")
    report = Report(healthy | {"OPENAI_WEBHOOK_SECRET": ""})
    assert report.exit_code == 0
    assert report.at("warning") == {"Redis: persistence", "Webhooks: secret"}


def test_a_doctor_finds_a_worker_that_was_killed(healthy: dict[str, str], stack: Stack) -> None:
    stack.worker.kill()
    redis: Any = stack.redis
    for member in redis.zrange(stack.key("workers"), 0, -1):
        # As if its last heartbeat were two minutes old.
        redis.zincrby(stack.key("workers"), -120, member)
    report = Report(healthy)
    assert report.exit_code == 1
    assert report.at("problem") >= {f"Celery: workers on {queue}" for queue in Queue}
    advice = report.findings["Celery: workers on submit"]["advice"]
    assert f"celery -A batchflow_workers worker -Q {stack.key_prefix}.submit" in advice


def test_a_doctor_finds_workers_with_another_redis(healthy: dict[str, str], stack: Stack) -> None:
    other = stack.redis_url.removesuffix("/0") + "/1"
    report = Report(
        healthy | {"BATCHFLOW_REDIS_URL": other, "BATCHFLOW_BROKER_URL": stack.redis_url}
    )
    found = report.findings["Celery: workers on poll"]
    assert found["level"] == "problem"
    assert "Celery finds 1 worker, but there is no heartbeat in Redis" in found["seen"]
    assert "BATCHFLOW_REDIS_URL" in found["advice"]


# Watch


@pytest.fixture
def organization(stack: Stack) -> str:
    return f"org-{os.urandom(8).hex()}"


def start_batch(stack: Stack, organization: str) -> Task:
    file_id = stack.emulator.upload(organization, requests(4))
    template = template_of(batch_task(organization))
    return stack.flyte.create(template, inputs_of(input_file_id=file_id), Node(stack.blobs))


class Terminal:
    """A terminal, and what was written to it."""

    def __init__(self, columns: int = 140, lines: int = 20) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # Reading fails once the other end is closed.
        with contextlib.suppress(OSError):
            while part := os.read(self._ours, 65_536):
                self._written += part

    @property
    def all(self) -> str:
        return self._written.decode("utf-8", "replace")

    @property
    def screen(self) -> str:
        """The last screen, without styles."""
        drawn = self.all.removesuffix(_RESTORED).split("\x1b[H")[-1]
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join(timeout=10)
        os.close(self._ours)


@contextmanager
def watching(stack: Stack, *options: str) -> Iterator[tuple["subprocess.Popen[bytes]", Terminal]]:
    """Run ``batchflow watch`` in a terminal, and stop it with Ctrl-C."""
    terminal = Terminal()
    process = subprocess.Popen(
        [BIN / "batchflow", "watch", "--interval", "0.2", *options],
        env=stack.env({"TERM": "xterm-256color"}),
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        start_new_session=True,
    )
    try:
        yield process, terminal
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        terminal.close()
    assert terminal.all.endswith(_RESTORED)
    assert "Traceback" not in terminal.all


def test_a_terminal_shows_the_progress_of_a_batch(stack: Stack, organization: str) -> None:
    stack.emulator.configure(in_progress_s=60)
    with watching(stack, "--organization", organization) as (_, terminal):
        until(lambda: "workers: submit 1, poll 1, files 1" in terminal.screen, "the numbers")
        assert "bf-" not in terminal.screen
        task = start_batch(stack, organization)
        until(lambda: "in_progress" in terminal.screen, "the batch to be in progress")
        # The screen may be read while it is drawn.
        shown = re.compile(r"^bf-\w+ +batch +running +.*0/4.* 23 h 59 min", re.MULTILINE)
        until(lambda: shown.search(terminal.screen), "its line")
        batch_id = task.until(lambda answer: "batch_id" in answer.custom_info, "the batch")
        stack.emulator.end(str(batch_id.custom_info["batch_id"]))
        until(lambda: "4/4" in terminal.screen, "the requests to be done")
        until(lambda: "succeeded" in terminal.screen.partition("bf-")[2], "the end")


def test_a_terminal_while_redis_restarts(stack: Stack) -> None:
    with watching(stack) as (process, terminal):
        until(lambda: "workers: " in terminal.screen, "the numbers")
        stack.redis_server.kill()
        until(lambda: "Redis can't be reached" in terminal.screen, "the error")
        assert "workers: " in terminal.screen, "the last state stays on the screen"
        stack.redis_server.start()
        until(
            lambda: "workers: " in terminal.screen and "reached" not in terminal.screen,
            "the numbers again",
        )
        assert process.poll() is None
    until(lambda: stack.redis.zcard(stack.key("workers")), "the worker's next heartbeat")


def test_without_a_terminal_each_transition_is_one_line(stack: Stack, organization: str) -> None:
    options = ["--organization", organization, "--kind", "batch", "--state", "succeeded"]
    with subprocess.Popen(
        [BIN / "batchflow", "watch", "--interval", "0.2", *options],
        env=stack.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stderr.readline().startswith("Watching.")
        start_batch(stack, f"{organization}-other").succeeds()
        start_batch(stack, organization).succeeds()
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert not rest
    assert not errors
    assert re.fullmatch(r"[-0-9]+ [:0-9]+  bf-\S+  batch +succeeded +completed +by poll\n", line)


# Webhooks


@pytest.fixture
def env(stack: Stack) -> dict[str, str | None]:
    """The environment for managing webhooks: an API key and OpenAI's address."""
    return {"OPENAI_BASE_URL": stack.emulator.base_url, "_FSEC_FLYTE_OPENAI_API_KEY": stack.api_key}


@contextmanager
def gateway_with(stack: Stack, *secrets: str) -> Iterator[Gateway]:
    settings = {"redis_url": stack.redis_url, "key_prefix": stack.key_prefix}
    with running_gateway(Settings.model_validate(settings | {"webhook_secrets": secrets})) as found:
        yield found


def secret_in(result: Result) -> str:
    """The one secret that a command printed."""
    assert result.exit_code == 0, result.output
    (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]{20,}", result.output)
    assert secret in result.stdout
    return str(secret)


def test_the_life_of_a_webhook_endpoint(
    stack: Stack, env: dict[str, str | None], organization: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    def webhooks(*arguments: str) -> Result:
        return call("webhooks", *arguments, "--organization", organization, env=env)

    port = free_port()
    none = webhooks("list")
    assert none.stdout.startswith("There are no webhook endpoints.")
    made = webhooks("register", f"http://127.0.0.1:{port}{WEBHOOK_PATH}", "--name", "ours")
    secret = secret_in(made)
    assert "OPENAI_WEBHOOK_SECRET" in made.stdout
    assert not made.stderr
    (id_,) = set(re.findall(r"we_\w+", made.stdout))

    unreachable = webhooks("test", id_)
    assert unreachable.exit_code == 1
    assert "could not be reached" in unreachable.stderr
    webhooks("delete", id_)
    assert webhooks("list").stdout == none.stdout

    with gateway_with(stack, SECRET) as other:
        made = webhooks("register", f"{other.url}{WEBHOOK_PATH}")
        (id_,) = set(re.findall(r"we_\w+", made.stdout))
        wrong = webhooks("test", id_, "--event", "batch.failed")
        assert wrong.exit_code == 1
        assert "HTTP 400" in wrong.stderr
        assert "another secret" in wrong.stderr
        webhooks("delete", id_)

    listed = json.loads(webhooks("list", "--json").stdout)
    assert listed == {"endpoints": []}
    logs = stack.emulator_process.log() + caplog.text
    assert secret not in logs
    assert secret.removeprefix("whsec_") not in logs


def test_a_gateway_accepts_events_signed_with_the_printed_secret(
    stack: Stack, env: dict[str, str | None], organization: str
) -> None:
    def webhooks(*arguments: str) -> Result:
        return call("webhooks", *arguments, "--organization", organization, env=env)

    # The secret exists only after the URL is registered.
    with gateway_with(stack) as first:
        made = json.loads(webhooks("register", f"{first.url}{WEBHOOK_PATH}", "--json").stdout)
        id_, old = made["id"], made["signing_secret"]
        assert webhooks("test", id_).exit_code == 1
    with stack.emulator.sdk(organization) as client, gateway_with(stack, old) as gateway:
        client.webhooks.update(id_, url=f"{gateway.url}{WEBHOOK_PATH}")
        taken = webhooks("test", id_)
        assert taken.exit_code == 0, taken.output
        assert "HTTP 204" in taken.stdout
        new = secret_in(webhooks("rotate", id_, "--keep-old"))
        assert new != old
        assert json.loads(webhooks("test", id_, "--json").stdout)["taken"] is True
        assert secret_in(webhooks("rotate", id_)) not in (old, new)
        assert webhooks("test", id_).exit_code == 1


def test_a_url_that_is_registered_already(env: dict[str, str | None], organization: str) -> None:
    arguments = ["webhooks", "register", "https://batchflow.example.com/hooks"]
    arguments += ["--organization", organization]
    first = call(*arguments, env=env)
    assert first.stderr == (
        "Warning: The path of this URL is not /webhooks/openai, where the gateway receives "
        "webhooks.\n"
    )
    (id_,) = set(re.findall(r"we_\w+", first.stdout))
    second = call(*arguments, env=env)
    assert second.exit_code == 0
    assert f"This URL is already registered as {id_}" in second.stderr
    listed = call("webhooks", "list", "--organization", organization, env=env).stdout
    assert listed.count("https://batchflow.example.com/hooks  all batch events") == 2
    assert "whsec_" not in listed


@pytest.mark.parametrize("command", ["test", "rotate", "delete"])
@pytest.mark.parametrize("id_", ["we_unknown", "no id"])
def test_an_unknown_endpoint(env: dict[str, str | None], command: str, id_: str) -> None:
    result = call("webhooks", command, id_, env=env)
    assert result.exit_code == 2
    assert "webhook endpoint" in result.stderr
    assert not result.stdout


def test_a_key_that_may_not_manage_webhooks(env: dict[str, str | None], stack: Stack) -> None:
    for status in (401, 403):
        stack.emulator.outage(status=status, operations=["webhooks.*"], count=1)
        result = call("webhooks", "list", env=env)
        assert result.exit_code == 1
        assert f"HTTP {status}" in result.stderr
        assert "needs a key that has this permission" in result.stderr


def test_a_server_without_webhooks(env: dict[str, str | None], stack: Stack) -> None:
    stack.emulator.outage(status=404, operations=["webhooks.*"])
    result = call("webhooks", "register", "https://batchflow.example.com/webhooks/openai", env=env)
    assert result.exit_code == 1
    assert "has no API for webhook endpoints" in result.stderr


def test_openai_api_key_is_used_and_required(env: dict[str, str | None], stack: Stack) -> None:
    without = env | {"_FSEC_FLYTE_OPENAI_API_KEY": None}
    result = call("webhooks", "list", env=without)
    assert result.exit_code == 2
    assert result.stderr == "Error: No OpenAI API key was found. Set OPENAI_API_KEY.\n"
    result = call("webhooks", "list", env=without | {"OPENAI_API_KEY": stack.api_key})
    assert result.exit_code == 0
