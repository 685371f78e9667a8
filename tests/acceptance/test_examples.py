"""Local executions as in the README, which start what they need and leave no process behind."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.admin.task_pb2 import TaskSpec
from flyteidl.admin.workflow_pb2 import WorkflowSpec

from tests.kit.emulator import Emulator, running_emulator
from tests.kit.flyte_tasks import requests
from tests.kit.processes import BIN, clean_environment, until
from tests.kit.stack import KEY_VARIABLES

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "workflow.py"
RUN_EXAMPLE = (BIN / "pyflyte", "run", EXAMPLE, "openai_batch_workflow")
#: In the example.
ORGANIZATION = "your-openai-organization-id"
API_KEY = "sk-example"

_MARK = "ACCEPTANCE_RUN"
_TIMEOUT_S = 120.0

_CREATE_BATCH = """
import json, sys, traceback
from flytekit import Secret
from flytekit.types.file import JSONLFile
from batchflow import create_batch

secret = Secret(group="openai-api-key", key="api_key")

def lines():
    with open("requests.jsonl") as file:
        yield from map(json.loads, file)

def iterator():
    return create_batch("by.iterator", secret)(jsonl_in=lines())

def file():
    workflow = create_batch("by.file", secret, "org-1", is_json_iterator=False)
    return workflow(jsonl_in=JSONLFile("requests.jsonl"))

for way in (iterator, file):
    try:
        result = way()
        with open(result.output_file) as answers:
            ids = sorted(json.loads(line)["custom_id"] for line in answers)
        print(json.dumps({way.__name__: ids, "error_file": result.error_file}))
    except Exception:
        traceback.print_exc()
"""


@dataclass
class Run:
    """A command in a folder of its own, whose processes are marked by a variable."""

    process: "subprocess.Popen[str]"
    mark: str

    def output(self) -> tuple[str, str]:
        """Wait for its end and return its stdout and stderr."""
        return self.process.communicate(timeout=_TIMEOUT_S)

    @property
    def ended(self) -> bool:
        """Whether the command has ended."""
        return self.process.poll() is not None

    def processes(self) -> list[psutil.Process]:
        """Its running processes."""
        return [process for process in psutil.process_iter() if _mark_of(process) == self.mark]


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(_MARK)
    except psutil.Error:
        return None


@contextmanager
def started(
    command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """Run a command, and kill what is left of it at the end."""
    mark = uuid.uuid4().hex
    temp = folder / "tmp"
    temp.mkdir()
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env={
            **clean_environment(),
            **(env or {}),
            _MARK: mark,
            "TMPDIR": str(temp),
            # rich wraps lines at this width.
            "COLUMNS": "1000",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Run(process, mark)
    try:
        yield run
    finally:
        for left in run.processes():
            left.kill()
        process.communicate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Both ways to run a batch, concurrently, since they mostly wait."""
    folder = tmp_path_factory.mktemp("create")
    (folder / "requests.jsonl").write_bytes(requests())
    with (
        started(RUN_EXAMPLE, tmp_path_factory.mktemp("example")) as workflow,
        started([sys.executable, "-c", _CREATE_BATCH], folder) as create_batch,
    ):
        yield {"workflow": workflow, "create_batch": create_batch}


@pytest.fixture(scope="module")
def outputs(runs: dict[str, Run]) -> dict[str, tuple[str, str]]:
    """The stdout and stderr of each run, once all have ended."""
    return {name: run.output() for name, run in runs.items()}


@pytest.mark.parametrize(
    ("number", "statuses"),
    [(signal.SIGINT, {"cancelling", "cancelled"}), (signal.SIGKILL, {"in_progress"})],
)
def test_a_stopped_run_leaves_no_process(
    tmp_path: Path, number: signal.Signals, statuses: set[str]
) -> None:
    with running_emulator(API_KEY) as emulator:
        # The emulator's batches do not end by themselves, however long the run takes to start.
        env = {"OPENAI_BASE_URL": emulator.base_url, **dict.fromkeys(KEY_VARIABLES, API_KEY)}
        with started(RUN_EXAMPLE, tmp_path, env) as run:
            until(lambda: run.ended or in_progress(emulator), "a batch in progress")
            run.process.send_signal(number)
            _, errors = run.output()
            until(lambda: not run.processes(), "the run's processes to end")
        assert run.process.returncode != 0
        assert "Failed to run the task" not in errors
        assert "Traceback" not in errors
        assert {batch["status"] for batch in emulator.batches(ORGANIZATION)} <= statuses


def in_progress(emulator: Emulator) -> bool:
    return any(each["status"] == "in_progress" for each in emulator.batches(ORGANIZATION))


def test_the_example_runs_without_any_setup(
    runs: dict[str, Run], outputs: dict[str, tuple[str, str]]
) -> None:
    stdout, stderr = outputs["workflow"]
    assert runs["workflow"].process.returncode == 0, stderr
    assert "BatchResult(" in stdout
    found = re.search(r"output_file=[^,]*?(/[^\s'\",)]+/output_file\.jsonl)", stdout)
    assert found, stdout
    answers = Path(found[1]).read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in answers) == ["request-1", "request-2"]
    notices = [line for line in stderr.splitlines() if line.startswith("Batchflow: ")]
    assert len(notices) == 2, stderr
    assert "starts its own stack" in notices[0]
    assert "emulator" in notices[1]
    assert "Traceback" not in stderr


def test_runs_leave_no_process_behind(
    runs: dict[str, Run], outputs: dict[str, tuple[str, str]]
) -> None:
    until(
        lambda: not any(run.processes() for run in runs.values()),
        "the processes of all runs to end",
    )


@pytest.mark.parametrize("way", ["iterator", "file"])
def test_create_batch_runs_locally(outputs: dict[str, tuple[str, str]], way: str) -> None:
    stdout, stderr = outputs["create_batch"]
    found = [json.loads(line) for line in stdout.splitlines() if line.startswith(f'{{"{way}"')]
    assert found, stderr
    assert found[0] == {way: ["r-0", "r-1", "r-2"], "error_file": None}


# -- registering on a cluster ---------------------------------------------------------------------


def parsed(folder: Path) -> dict[str, Any]:
    """The entities of a package by name, without launch plans."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.pb")):
        kind: Any = {"1": TaskSpec, "2": WorkflowSpec, "3": LaunchPlan}[path.stem[-1]]
        entity = kind()
        entity.ParseFromString(path.read_bytes())
        if kind is not LaunchPlan:
            found[entity.template.id.name] = entity.template
    return found


@pytest.mark.parametrize("way", ["package", "serialize"])
def test_the_example_can_be_registered(tmp_path: Path, way: str) -> None:
    shutil.copytree(EXAMPLE.parent, tmp_path / "examples")
    target = tmp_path / "entities"
    target.mkdir()
    image = "registry.example/flows:v1"
    pyflyte = [str(BIN / "pyflyte"), "--pkgs", "examples.workflow"]
    options = {
        "package": ["package", "--image", image, "--output", str(tmp_path / "package.tgz")],
        "serialize": ["serialize", "--image", image, "workflows", "-f", str(target)],
    }
    done = subprocess.run(
        [*pyflyte, *options[way]],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if way == "package":
        with tarfile.open(tmp_path / "package.tgz") as package:
            package.extractall(target, filter="data")
    found = parsed(target)
    upload = found["upload_openai_batch_input"]
    batch = found["execute_openai_batch_job"]
    download = found["download_openai_batch_results"]
    assert upload.type == "openai-batch-upload-file"
    assert batch.type == "openai-batch"
    assert download.type == "openai-batch-download-files"
    assert batch.custom["config"]["model"] == "gpt-3.5-turbo"
    assert upload.container.image.startswith("flyte-batchflow-task:")
    assert upload.security_context.secrets[0].group == "openai-api-key"
    workflow = found["examples.workflow.openai_batch_workflow"]
    assert len(workflow.nodes) == 4
