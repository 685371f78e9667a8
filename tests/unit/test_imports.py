"""What importing pulls in, and which way imports go."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "batchflow": ROOT / "batchflow",
    "batchflow_connector": ROOT / "connector" / "batchflow_connector",
    "batchflow_workers": ROOT / "workers" / "batchflow_workers",
}
NAMES = (
    "UploadJSONLFileTask, BatchEndpointTask, DownloadJSONFilesTask, OpenAIFileConfig, "
    "OpenAIFileDefaultImages, BatchResult, create_batch"
)

#: Importing flytekit imports all of its plugins that are installed; they are not the matter here.
WITHOUT_PLUGINS = """
import importlib.metadata, sys
found = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **by: found(**by) if by != PLUGINS else ()
PLUGINS = {"group": "flytekit.plugins"}
"""

#: Module or package -> the only parts of Batchflow that it may import.
LEAVES = {
    "batchflow.errors",
    "batchflow.states",
    "batchflow.keys",
    "batchflow.metadata",
    "batchflow.failures",
    "batchflow.links",
    "batchflow.hosts",
    "batchflow.webhook",
    "batchflow.calls",
}
SHARED = LEAVES | {
    "batchflow.jobs",
    "batchflow.jsonl",
    "batchflow.broker",
    "batchflow.redis_url",
    "batchflow.settings",
    "batchflow.queue",
    "batchflow.backlog",
    "batchflow.openai_api",
    "batchflow.store",
}
MAY_IMPORT = {
    "batchflow.errors": set[str](),
    "batchflow.states": set[str](),
    "batchflow.keys": set[str](),
    "batchflow.metadata": set[str](),
    "batchflow.failures": set[str](),
    "batchflow.links": set[str](),
    "batchflow.hosts": set[str](),
    "batchflow.webhook": set[str](),
    "batchflow.calls": {"batchflow.errors"},
    "batchflow.jobs": LEAVES,
    "batchflow.jsonl": LEAVES,
    "batchflow.broker": set(),
    "batchflow.redis_url": LEAVES,
    "batchflow.settings": LEAVES | {"batchflow.jobs", "batchflow.jsonl", "batchflow.redis_url"},
    "batchflow.queue": SHARED - {"batchflow.store", "batchflow.openai_api"},
    "batchflow.backlog": LEAVES | {"batchflow.queue"},
    "batchflow.openai_api": SHARED - {"batchflow.store", "batchflow.queue", "batchflow.backlog"},
    "batchflow.store": SHARED - {"batchflow.queue", "batchflow.backlog", "batchflow.openai_api"},
    "batchflow.openai_webhooks": LEAVES | {"batchflow.jobs", "batchflow.openai_api"},
    "batchflow.simulator": {"batchflow.simulator"},
    "batchflow.overview": SHARED - {"batchflow.openai_api"} | {"batchflow.overview"},
    "batchflow.gateway": SHARED | {"batchflow.overview", "batchflow.gateway"},
    "batchflow_workers": SHARED | {"batchflow_workers"},
    "batchflow_connector": SHARED | {"batchflow.flyte", "batchflow_connector"},
}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import batchflow", {"celery", "redis", "openai", "flytekit", "pydantic"}),
        (f"from batchflow import {NAMES}", {"celery", "redis", "openai"}),
        ("import batchflow.store", {"celery", "openai", "flytekit"}),
        ("import batchflow.queue", {"openai", "flytekit"}),
        ("import batchflow_connector", {"openai"}),
    ],
)
def test_an_import_does_not_pull_in_what_it_does_not_need(
    statement: str, unwanted: set[str]
) -> None:
    program = f"{WITHOUT_PLUGINS}\n{statement}\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert unwanted.isdisjoint(run.stdout.split())


def test_an_unknown_name_is_an_attribute_error() -> None:
    import batchflow

    with pytest.raises(AttributeError, match="module 'batchflow' has no attribute 'nothing'"):
        batchflow.nothing  # noqa: B018 - reading it is the test


def test_every_public_name_is_there() -> None:
    import batchflow

    assert all(getattr(batchflow, name).__name__ == name for name in batchflow.__all__)


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imported(path: Path) -> set[str]:
    """The modules of ours that a file names in import statements, wherever they stand."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in SOURCES}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_go_one_way(layer: str) -> None:
    for module, path in modules():
        if not within(module, layer):
            continue
        strangers = {
            name
            for name in imported(path)
            if not any(within(name, allowed) for allowed in MAY_IMPORT[layer] | {layer})
        }
        assert not strangers, f"{module} imports {strangers}"


def test_connector_and_workers_do_not_know_each_other() -> None:
    for module, path in modules():
        names = {name.partition(".")[0] for name in imported(path)}
        assert not (module.startswith("batchflow_workers") and "batchflow_connector" in names)
        assert not (module.startswith("batchflow_connector") and "batchflow_workers" in names)


def test_only_the_workers_and_the_simulator_know_openai() -> None:
    allowed = (
        "batchflow_workers",
        "batchflow.openai_api",
        "batchflow.openai_webhooks",
        "batchflow.simulator",
    )
    for module, path in modules():
        tree = ast.parse(path.read_text("utf-8"))
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        if any(name.partition(".")[0] == "openai" for name in names):
            assert module.startswith(allowed), f"{module} imports openai"
