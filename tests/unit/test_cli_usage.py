"""Invalid usage: a message on stderr, the right exit code, and nothing started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchflow.cli.command_group import Interrupted, JobFailed, LazyCommand, exit_code
from batchflow.errors import (
    BatchflowError,
    CredentialMissing,
    InvalidInput,
    InvalidSettings,
    JobNotFound,
    MissingExtra,
    StoreUnavailable,
)
from batchflow.jobs import Credential
from batchflow.stack.local_stack import export_api_key
from tests.kit.cli import call

GOOD = '{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"x"}}\n'
COMMANDS = (
    "run",
    "status",
    "list",
    "watch",
    "cancel",
    "webhooks",
    "doctor",
    "up",
    "gateway",
    "simulate",
)


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.jsonl"
    path.write_text(GOOD)
    return str(path)


def test_help_lists_all_commands_and_imports_none() -> None:
    program = (
        "import sys\nfrom batchflow.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "wrong = {'flytekit', 'celery', 'openai', 'redis', 'rich.progress'} & sys.modules.keys()\n"
        "assert not wrong, wrong\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    for name in COMMANDS:
        assert f"\n  {name} " in run.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    assert call(name, "--help").exit_code == 0


def test_version() -> None:
    assert call("--version").output.startswith("batchflow 0.")


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'flyte-batchflow\[local\]'"):
        LazyCommand("not_installed_anywhere:run", "local", "").load("run")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput(""), 2),
        (InvalidSettings(""), 2),
        (MissingExtra(""), 2),
        (CredentialMissing(""), 2),
        (JobFailed(""), 1),
        (JobNotFound(""), 1),
        (StoreUnavailable(""), 1),
        (Interrupted(""), 130),
    ],
)
def test_exit_codes(error: BatchflowError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize("name", ["status", "cancel"])
def test_without_redis_url(name: str) -> None:
    result = call(name, "bf-" + "a" * 26)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: BATCHFLOW_REDIS_URL is not set.")


def test_unavailable_redis() -> None:
    result = call("list", "--json", env={"BATCHFLOW_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"})
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Redis can't be reached")
    assert "hunter2" not in result.output
    assert not result.stdout


def test_an_invalid_redis_url() -> None:
    result = call("list", env={"BATCHFLOW_REDIS_URL": "hunter2"})
    assert result.exit_code == 2
    assert "hunter2" not in result.output


@pytest.mark.parametrize("name", ["status", "cancel"])
def test_an_invalid_id(name: str) -> None:
    result = call(name, "not an id", env={"BATCHFLOW_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert result.exit_code == 2
    assert "Not a valid id" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        (b"", "the file is empty"),
        (b'{"custom_id": "a"}\nnonsense\n', "line 2: not valid JSON"),
        (b"\xff\n", "line 1: not UTF-8"),
    ],
)
def test_an_invalid_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "in.jsonl"
    if content is not None:
        path.write_bytes(content)
    result = call("run", str(path), "--json", "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metadata", "x"], "KEY=VALUE"),
        (["--metadata", "a=1", "--metadata", "a=2"], "twice"),
        (["--metadata", "batchflow_job=1"], "batchflow_job"),
        (["--secret", "x"], "GROUP/KEY"),
        (["--secret", "a/../b"], "not a valid name"),
        (["--organization", "a b"], "not a valid organization"),
        (["--endpoint", "/v1/other"], "must be the same"),
        (["--completion-window", ""], "completion_window"),
    ],
)
def test_invalid_options(tmp_path: Path, good: str, options: list[str], message: str) -> None:
    result = call("run", good, *options, "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_output_folder_that_is_a_file(tmp_path: Path, good: str) -> None:
    (tmp_path / "out").write_text("a file")
    result = call("run", good, "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "not writable" in result.stderr


def test_a_base_url_without_a_key_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with pytest.raises(InvalidSettings, match="Set OPENAI_API_KEY"):
        export_api_key(Credential())


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "FLYTE_OPENAI_API_KEY"])
def test_an_api_key_is_exported_for_the_workers(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", "")
    assert not export_api_key(Credential())
    monkeypatch.setenv(name, "sk-1")
    assert export_api_key(Credential())
    assert os.environ["_FSEC_FLYTE_OPENAI_API_KEY"] == "sk-1"


def test_a_missing_secret_is_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", "sk-1")
    with pytest.raises(CredentialMissing, match="no/such"):
        export_api_key(Credential(group="no", key="such"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("batchflow.example.com/webhooks/openai", "Not a valid webhook URL"),
        ("https:///webhooks/openai", "Not a valid webhook URL"),
        ("https://user:hunter2@batchflow.example.com/", "Not a valid webhook URL"),
        ("https://[batchflow/", "Not a valid webhook URL"),
        ("https://batchflow.example.com/a b", "Not a valid webhook URL"),
        ("https://batchflow.example.com:0/", "Not a valid webhook URL"),
        ("https://batchflow.example.com/" + "a" * 2_048, "Not a valid webhook URL"),
        ("ftp://batchflow.example.com/", "only to https:// URLs"),
        ("http://batchflow.example.com/", "only to https:// URLs"),
        ("http://10.0.0.1/webhooks/openai", "only to https:// URLs"),
    ],
)
def test_an_invalid_webhook_url(url: str, message: str) -> None:
    result = call("webhooks", "register", url)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "hunter2" not in result.output


@pytest.mark.parametrize("name", ["", "a" * 257, "a\nb"])
def test_an_invalid_endpoint_name(name: str) -> None:
    result = call("webhooks", "register", "https://batchflow.example.com/", "--name", name)
    assert result.exit_code == 2
    assert "--name" in result.stderr


@pytest.mark.parametrize("interval", ["0", "-1", "soon"])
def test_an_invalid_interval(interval: str) -> None:
    assert call("watch", "--interval", interval).exit_code == 2


def test_up_rejects_a_data_dir_for_a_given_redis(tmp_path: Path) -> None:
    result = call(
        "up", "--data-dir", str(tmp_path), env={"BATCHFLOW_REDIS_URL": "redis://127.0.0.1:1/0"}
    )
    assert result.exit_code == 2
    assert "--data-dir" in result.stderr
