"""Local executions as in the README: nothing is started before, and nothing is left behind."""

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

import httpx2
import psutil
import pytest
from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.admin.task_pb2 import TaskSpec
from flyteidl.admin.workflow_pb2 import WorkflowSpec

from tests.kit.flyte_tasks import requests
from tests.kit.processes import BIN, clean_environment, until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "workflow.py"

_MARK = "ACCEPTANCE_RUN"
_TOOK_LONG_S = 90.0

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
class Local:
    """A command that runs by itself, in a folder of its own; it and its children are marked."""

    process: "subprocess.Popen[str]"
    mark: str

    def end(self) -> tuple[str, str]:
        """Wait for its end; returns what it said, on stdout and on stderr."""
        return self.process.communicate(timeout=_TOOK_LONG_S)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def left(self) -> list[psutil.Process]:
        """The marked processes that there are."""
        return [process for process in psutil.process_iter() if _environment(process) == self.mark]


def _environment(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(_MARK)
    except psutil.Error:
        return None


@contextmanager
def local(
    command: Sequence[str | Path], folder: Path, more: Mapping[str, str] | None = None
) -> Iterator[Local]:
    """Start a command, and see to it that nothing of it is left at the end."""
    mark = uuid.uuid4().hex
    temp = folder / "tmp"
    temp.mkdir()
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env={
            **clean_environment(),
            **(more or {}),
            _MARK: mark,
            "TMPDIR": str(temp),
            # For rich, which breaks lines.
            "COLUMNS": "1000",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Local(process, mark)
    try:
        yield run
    finally:
        for left in run.left():
            left.kill()
        process.communicate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Local]]:
    """What the tests look at runs side by side, since most of it is waiting."""
    creating = tmp_path_factory.mktemp("create")
    (creating / "requests.jsonl").write_bytes(requests())
    example: list[str | Path] = [BIN / "pyflyte", "run", EXAMPLE, "openai_batch_workflow"]
    with (
        local(example, tmp_path_factory.mktemp("example")) as workflow,
        local([sys.executable, "-c", _CREATE_BATCH], creating) as create_batch,
        local(example, tmp_path_factory.mktemp("interrupted")) as interrupted,
        local(example, tmp_path_factory.mktemp("killed")) as killed,
    ):
        yield {
            "workflow": workflow,
            "create_batch": create_batch,
            "interrupted": interrupted,
            "killed": killed,
        }


@pytest.fixture(scope="module")
def ended(runs: dict[str, Local]) -> dict[str, tuple[str, str]]:
    """What the runs have said when all of them have ended."""
    return {name: runs[name].end() for name in ("workflow", "create_batch")}


@pytest.mark.parametrize(
    ("name", "number"), [("interrupted", signal.SIGINT), ("killed", signal.SIGKILL)]
)
def test_a_run_that_is_stopped_leaves_nothing(
    runs: dict[str, Local], name: str, number: signal.Signals
) -> None:
    run = runs[name]
    until(lambda: run.ended or batches_of(run), "a batch at the run's emulator", timeout_s=60)
    run.process.send_signal(number)
    _, complained = run.end()
    assert run.process.returncode != 0
    assert "Failed to run the task" not in complained
    until(lambda: not run.left(), "its processes to end", timeout_s=20)
    assert "Traceback" not in complained


def test_the_example_runs_with_nothing(
    runs: dict[str, Local], ended: dict[str, tuple[str, str]]
) -> None:
    said, complained = ended["workflow"]
    assert runs["workflow"].process.returncode == 0, complained
    assert "BatchResult(" in said
    found = re.search(r"output_file=[^,]*?(/[^\s'\",)]+/output_file\.jsonl)", said)
    assert found, said
    answers = Path(found[1]).read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in answers) == ["request-1", "request-2"]
    own_words = [line for line in complained.splitlines() if line.startswith("Batchflow: ")]
    assert len(own_words) == 2, complained
    assert "starts its own stack" in own_words[0]
    assert "emulator" in own_words[1]
    assert "Traceback" not in complained


def test_nothing_is_left_behind(runs: dict[str, Local], ended: dict[str, tuple[str, str]]) -> None:
    until(
        lambda: not any(run.left() for run in runs.values()),
        "the processes of all runs to end",
        timeout_s=5,
    )


@pytest.mark.parametrize("way", ["iterator", "file"])
def test_create_batch_runs_locally(ended: dict[str, tuple[str, str]], way: str) -> None:
    said, complained = ended["create_batch"]
    found = [json.loads(line) for line in said.splitlines() if line.startswith(f'{{"{way}"')]
    assert found, complained
    assert found[0] == {way: ["r-0", "r-1", "r-2"], "error_file": None}


def batches_of(run: Local) -> list[Any]:
    """The batches at a run's own emulator, which listens somewhere."""
    for process in run.left():
        try:
            if "simulate" not in process.cmdline():
                continue
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    url = f"http://127.0.0.1:{connection.laddr.port}/simulator/batches"
                    return list(httpx2.get(url, timeout=5).json()["data"])
        except (psutil.Error, httpx2.HTTPError):
            continue
    return []


# -- on the way to a cluster ----------------------------------------------------------------------


def parsed(folder: Path) -> dict[str, Any]:
    """The entities of a package by name; a workflow also has a launch plan, which is left out."""
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
