"""Compatibility with Flyte's OpenAI plugin: its workflows run unchanged; both can be installed."""

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flytekit.models.security import Secret
from flytekit.tools.translator import get_serializable
from flytekitplugins.openai.batch import task as old_task
from flytekitplugins.openai.batch import workflow as old_workflow

import batchflow
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import SETTINGS, FlyteClient, Node, file_inputs, inputs_of, template_of
from tests.kit.flyte_tasks import SECRET, custom_ids, put, requests
from tests.kit.processes import clean_environment
from tests.kit.stack import Stack

OURS = "Batchflow"
TASK_TYPES = {"openai-batch", "openai-batch-upload-file", "openai-batch-download-files"}

SECRETS = [
    SECRET,
    Secret(group="other", key="key", group_version="v2"),
    Secret(group="file", key="key", mount_requirement=Secret.MountType.FILE),
]


def tasks(plugin: Any, organization: str | None, secret: Secret) -> dict[str, Any]:
    """The three tasks, made by the classes of either plugin with the same arguments."""
    config = plugin.OpenAIFileConfig(secret=secret, openai_organization=organization)
    return {
        "upload": plugin.UploadJSONLFileTask(name="upload", task_config=config),
        "batch": plugin.BatchEndpointTask(
            name="batch",
            config={"model": "gpt-3.5-turbo", "completion_window": "24h"},
            openai_organization=organization,
        ),
        "download": plugin.DownloadJSONFilesTask(name="download", task_config=config),
    }


def comparable(template: Any) -> Any:
    """A template without its image and the path of its executor, which must differ."""
    copy = type(template)()
    copy.CopyFrom(template)
    copy.container.image = ""
    if copy.container.args:
        copy.container.args[-1] = ""
    return copy


@pytest.mark.parametrize("organization", [None, "org-1"])
@pytest.mark.parametrize("secret", SECRETS, ids=["env", "version", "file"])
@pytest.mark.parametrize("name", ["upload", "batch", "download"])
def test_tasks_serialize_identically(name: str, secret: Secret, organization: str | None) -> None:
    old = template_of(tasks(old_task, organization, secret)[name])
    new = template_of(tasks(batchflow, organization, secret)[name])
    assert comparable(new) == comparable(old)
    assert new.type in TASK_TYPES
    if old.container.args:
        assert new.container.args[-1].startswith("batchflow.")
        assert new.container.image.startswith("flyte-batchflow-task:")


def test_the_old_class_names_and_constants_exist() -> None:
    for name in ("OpenAIFileDefaultImages", "UploadJSONLFileExecutor", "DownloadJSONFilesExecutor"):
        assert hasattr(old_task, name)
        assert hasattr(batchflow, name)
    assert batchflow.OpenAIFileDefaultImages.find_image_for()
    for name in ("BatchEndpointTask", "UploadJSONLFileTask", "DownloadJSONFilesTask"):
        for constant, value in vars(getattr(old_task, name)).items():
            if constant.endswith("_TASK_TYPE"):
                assert getattr(getattr(batchflow, name), constant) == value


@pytest.mark.parametrize("is_json_iterator", [True, False])
def test_create_batch_makes_the_same_workflow(is_json_iterator: bool) -> None:
    arguments: dict[str, Any] = {
        "name": "gpt-3.5",
        "secret": SECRET,
        "openai_organization": "org-1",
        "config": {"completion_window": "24h"},
        "is_json_iterator": is_json_iterator,
        "file_upload_mem": "1Gi",
        "file_download_mem": "2Gi",
    }
    old, old_tasks = serialized(old_workflow.create_batch(**arguments))
    new, new_tasks = serialized(batchflow.create_batch(**arguments))
    assert new == old
    assert new_tasks == old_tasks
    assert len(new_tasks) == 3


def test_create_batch_needs_only_a_name_and_a_secret() -> None:
    old = serialized(old_workflow.create_batch("a.b.c", SECRET))
    assert serialized(batchflow.create_batch("a.b.c", SECRET)) == old


def serialized(workflow: Any) -> tuple[Any, list[Any]]:
    """The templates of a workflow and of its tasks."""
    entities: OrderedDict[Any, Any] = OrderedDict()
    template = get_serializable(entities, SETTINGS, workflow).template.to_flyte_idl()
    tasks = [
        comparable(entity.template.to_flyte_idl())
        for entity in entities.values()
        if type(entity).__name__ == "TaskSpec"
    ]
    return template, tasks


@pytest.fixture
def run_chain(
    flyte: FlyteClient, emulator: Emulator, org: str, node: Node
) -> Callable[[dict[str, Any]], None]:
    """Runs an upload, a batch and a download from their templates."""

    def run(templates: dict[str, Any]) -> None:
        source = file_inputs(put(node.folder, requests()))
        file_id = flyte.create(templates["upload"], source, node).succeeds()
        batch = flyte.create(
            templates["batch"], inputs_of(input_file_id=file_id), replace(node, node="n1")
        ).succeeds()
        files = flyte.create(
            templates["download"], inputs_of(batch_endpoint_result=batch), replace(node, node="n2")
        ).succeeds()
        assert custom_ids(files["output_file"]["path"]) == ["r-0", "r-1", "r-2"]
        assert [entry["id"] for entry in emulator.batches(org)] == [batch["id"]]

    return run


def test_the_old_tasks_run(run_chain: Callable[..., None], org: str) -> None:
    made = tasks(old_task, org, SECRET)
    run_chain({name: template_of(task) for name, task in made.items()})


def test_the_old_workflow_runs(run_chain: Callable[..., None], org: str) -> None:
    workflow = old_workflow.create_batch("old", SECRET, org, {"endpoint": "/v1/chat/completions"})
    entities = [node.flyte_entity for node in workflow.nodes]
    assert len(entities) == 3
    run_chain(dict(zip(("upload", "batch", "download"), map(template_of, entities), strict=True)))


# -- both installed -------------------------------------------------------------------------------

_REGISTERED_MODULES = """
import json, sys
for name in sys.argv[1:]:
    __import__(name)
from flytekit.extend.backend.base_connector import ConnectorRegistry
types = ("openai-batch", "openai-batch-upload-file", "openai-batch-download-files", "chatgpt")
print(json.dumps({t: type(ConnectorRegistry.get_connector(t)).__module__ for t in types}))
"""


@pytest.mark.parametrize(
    "modules",
    [
        ("flytekit", "batchflow_connector"),
        ("batchflow_connector", "flytekit"),
        ("batchflow", "batchflow_connector", "flytekitplugins.openai"),
    ],
    ids=" ".join,
)
def test_both_can_be_imported(stack: Stack, modules: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _REGISTERED_MODULES, *modules],
        env=stack.env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    registered = json.loads(done.stdout.splitlines()[-1])
    assert registered.pop("chatgpt").startswith("flytekitplugins.openai")
    assert set(registered) == TASK_TYPES
    assert all(module.startswith("batchflow_connector") for module in registered.values())


def test_authors_can_import_both_plugins() -> None:
    # Without any settings, as on a machine that only registers workflows.
    program = (
        "import flytekit, batchflow; from batchflow import BatchEndpointTask, create_batch;"
        "from flytekitplugins.openai import BatchEndpointTask as Old;"
        "assert BatchEndpointTask is not Old"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def both_orders(running_stack: Stack) -> Iterator[dict[str, FlyteClient]]:
    """Two connector services that load the modules of both plugins, in either order."""
    modules = ["flytekitplugins.openai", "batchflow_connector"]
    with (
        running_stack.make_connector("connector-old-first", *modules) as old_first,
        running_stack.make_connector("connector-ours-first", *modules[::-1]) as ours_first,
        FlyteClient(old_first.address) as client_of_old_first,
        FlyteClient(ours_first.address) as client_of_ours_first,
    ):
        yield {"old first": client_of_old_first, "ours first": client_of_ours_first}


@pytest.mark.parametrize("order", ["old first", "ours first"])
def test_batchflow_serves_the_tasks_when_both_are_loaded(
    both_orders: dict[str, FlyteClient], order: str, emulator: Emulator, org: str, node: Node
) -> None:
    client = both_orders[order]
    served = client.task_types()
    ours = {kind for name, kinds in served.items() if name.startswith(OURS) for kind in kinds}
    assert ours == TASK_TYPES
    template = template_of(tasks(old_task, org, SECRET)["batch"])
    file_id = emulator.upload(org, requests())
    task = client.create(template, inputs_of(input_file_id=file_id), node)
    # The old plugin's metadata is a pickle.
    assert json.loads(task.meta)["job_id"].startswith("bf-")
    assert task.succeeds()["id"] == emulator.batches(org)[0]["id"]
