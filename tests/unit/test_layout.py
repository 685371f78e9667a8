"""The layout in CONTRIBUTING.md is the layout of the code."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Packages whose modules the layout names; elsewhere it names folders only.
PACKAGES = ("batchflow/", "workers/batchflow_workers/", "connector/batchflow_connector/")
#: The width of the names before their description.
NAMES_WIDTH = 36
MAX_TOP_LEVEL_MODULES = 9


def documented() -> dict[str, set[str]]:
    """Folders in CONTRIBUTING.md -> the folders and modules named below them."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    block = text.partition("## Layout")[2].split("```")[1]
    folders: dict[str, set[str]] = {}
    folder = ""
    for line in block.splitlines()[1:]:
        names = line[:NAMES_WIDTH].split()
        if line.startswith(" "):
            folders[folder] |= set(names)
        else:
            [folder] = names
            folders[folder] = set()
    return folders


def existing(folder: Path) -> set[str]:
    """The folders and modules in a folder, without caches and hidden ones."""
    names = {
        f"{path.name}/"
        for path in folder.iterdir()
        if not path.name.startswith((".", "__")) and any(map(is_source, path.rglob("*")))
    }
    return names | {path.name for path in folder.glob("*.py") if path.name != "__init__.py"}


def is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


DOCUMENTED = documented()


@pytest.mark.parametrize("folder", DOCUMENTED)
def test_folder_is_documented_as_it_is(folder: str) -> None:
    names = existing(ROOT / folder)
    if folder not in PACKAGES:
        names = {name for name in names if name.endswith("/")}
    assert DOCUMENTED[folder] == names


def test_every_folder_of_the_project_is_documented() -> None:
    ignored = {f"{line.strip('/')}/" for line in (ROOT / ".gitignore").read_text().splitlines()}
    top_level = {name for name in existing(ROOT) if name.endswith("/")} - ignored
    assert {f"{folder.partition('/')[0]}/" for folder in DOCUMENTED} == top_level


def test_the_top_level_has_few_modules() -> None:
    modules = [name for name in existing(ROOT / "batchflow") if name.endswith(".py")]
    assert len(modules) <= MAX_TOP_LEVEL_MODULES
