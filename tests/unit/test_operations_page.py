"""docs/operations.md: each fault has a test, and the alerts name faults that are in its table."""

import re
from pathlib import Path

import pytest

from tests.kit.monitoring import alerts

ROOT = Path(__file__).parents[2]

_PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
_TABLE = _PAGE.partition("## When something fails")[2].partition("\n## ")[0]
_HEADER, _, *_ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
    for line in _TABLE.splitlines()
    if line.startswith("|")
]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
#: The columns of the fault and of the test.
_FAULT, _CAUSE = 0, 4


def test_the_table_answers_five_questions() -> None:
    assert len(_HEADER) == 5
    assert {len(row) for row in _ROWS} == {5}
    faults = [row[_FAULT] for row in _ROWS]
    assert len(set(faults)) == len(faults) > 20


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[_FAULT])
def test_a_test_causes_each_fault(row: list[str]) -> None:
    named = _TEST.fullmatch(row[_CAUSE])
    assert named, row[_CAUSE]
    path, name = named.groups()
    assert re.search(rf"^\s*def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_alerts_name_faults_of_the_table(rule: dict[str, dict[str, str]]) -> None:
    _, found, names = rule["annotations"]["description"].partition('"When something fails", ')
    faults = " ".join(row[_FAULT] for row in _ROWS)
    assert not found or all(name in faults for name in re.findall(r'"([^"]+)"', names))
