"""The directions of imports, and what importing a package imports in turn."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
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

#: Importing flytekit imports all installed plugins, which must not count.
WITHOUT_PLUGINS = """
import importlib.metadata, sys
found = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **by: found(**by) if by != PLUGINS else ()
PLUGINS = {"group": "flytekit.plugins"}
"""

LEAVES = {"batchflow.errors", "batchflow.states", "batchflow.links", "batchflow.hosts"}
MODELS = LEAVES | {"batchflow.jobs", "batchflow.requests", "batchflow.redis_url"}
SHARED = MODELS | {
    "batchflow.settings",
    "batchflow.store",
    "batchflow.queue",
    "batchflow.openai_client",
}
#: A module or package -> the parts of Batchflow that it may import, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    **{leaf: set() for leaf in sorted(LEAVES)},
    "batchflow.jobs": LEAVES,
    "batchflow.requests": LEAVES,
    "batchflow.redis_url": LEAVES,
    "batchflow.settings": MODELS,
    "batchflow.store": MODELS | {"batchflow.settings"},
    "batchflow.queue": MODELS | {"batchflow.settings"},
    "batchflow.openai_client": MODELS | {"batchflow.settings"},
    "batchflow.simulator": set(),
    "batchflow.job_requests": SHARED,
    "batchflow.overview": SHARED - {"batchflow.openai_client"},
    "batchflow.gateway": SHARED | {"batchflow.overview"},
    "batchflow_workers": SHARED,
    "batchflow_connector": SHARED | {"batchflow.job_requests"},
    "batchflow.stack": SHARED,
    # A local execution registers the connectors and starts its own stack.
    "batchflow.flyte1": SHARED
    | {"batchflow.job_requests", "batchflow_connector", "batchflow.stack"},
    "batchflow.cli": {"batchflow", "batchflow_workers.files"},
}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import batchflow", {"celery", "redis", "openai", "flytekit", "pydantic"}),
        (f"from batchflow import {NAMES}", {"celery", "redis", "openai"}),
        ("import batchflow.store", {"celery", "openai", "flytekit"}),
        ("import batchflow.queue", {"openai", "flytekit"}),
        ("import batchflow.job_requests.specs", {"celery", "openai", "flytekit"}),
        ("import batchflow.job_requests.enqueue", {"openai", "flytekit"}),
        ("import batchflow_connector", {"openai"}),
    ],
)
def test_imports_pull_in_only_what_is_needed(statement: str, unwanted: set[str]) -> None:
    program = f"{WITHOUT_PLUGINS}\n{statement}\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert unwanted.isdisjoint(run.stdout.split())


def test_an_unknown_name_raises_attribute_error() -> None:
    import batchflow

    with pytest.raises(AttributeError, match="module 'batchflow' has no attribute 'nothing'"):
        batchflow.nothing  # noqa: B018 - reading it is the test


def test_every_public_name_can_be_imported() -> None:
    import batchflow

    assert all(getattr(batchflow, name).__name__ == name for name in batchflow.__all__)


@cache
def modules() -> dict[str, frozenset[str]]:
    """What each module imports, also inside functions: ``a.b`` for ``from a import b``."""
    return {
        ".".join((package, *(part for part in parts if part != "__init__"))): imports_of(path)
        for package, folder in SOURCES.items()
        for path in sorted(folder.rglob("*.py"))
        for parts in [path.relative_to(folder).with_suffix("").parts]
    }


def imports_of(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def imported(module: str) -> set[str]:
    """The names in Batchflow that a module imports."""
    return {name for name in modules()[module] if top_level(name) in SOURCES}


def imported_modules(module: str) -> set[str]:
    """The modules that a module imports: for the name ``a.b``, ``a.b`` if it is one, or ``a``."""
    known = modules()
    return {name if name in known else name.rpartition(".")[0] for name in imported(module)}


def top_level(name: str) -> str:
    return name.partition(".")[0]


def package_of(module: str) -> str:
    """The subpackage of a module; a module at the top level stands for itself."""
    return ".".join(module.split(".")[:2])


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(error.args[1])}")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_go_one_way(layer: str) -> None:
    for module in modules():
        if not within(module, layer):
            continue
        forbidden = {
            name
            for name in imported(module)
            if not any(within(name, allowed) for allowed in MAY_IMPORT[layer] | {layer})
        }
        assert not forbidden, f"{module} imports {forbidden}"


def test_every_package_has_a_row_in_the_table() -> None:
    rows = set(MAY_IMPORT) | SOURCES.keys()
    missing = {
        package_of(module)
        for module in modules()
        if not rows & {package_of(module), top_level(module)} - {"batchflow"}
    }
    assert missing <= {"batchflow"}


def test_there_are_no_circular_imports() -> None:
    graph = {module: imported_modules(module) for module in modules()}
    assert_no_circle(graph)
    packages: dict[str, set[str]] = {}
    for module, names in graph.items():
        packages.setdefault(package_of(module), set()).update(
            package_of(name) for name in names if package_of(name) != package_of(module)
        )
    # These only re-export names.
    for package in SOURCES:
        packages.pop(package)
    assert_no_circle(packages)


def test_connector_and_workers_do_not_import_each_other() -> None:
    for module in modules():
        names = set(map(top_level, imported(module)))
        assert not (module.startswith("batchflow_workers") and "batchflow_connector" in names)
        assert not (module.startswith("batchflow_connector") and "batchflow_workers" in names)


def test_only_the_openai_client_workers_and_simulator_import_openai() -> None:
    allowed = ("batchflow_workers", "batchflow.openai_client", "batchflow.simulator")
    for module, names in modules().items():
        if "openai" in map(top_level, names):
            assert module.startswith(allowed), f"{module} imports openai"
