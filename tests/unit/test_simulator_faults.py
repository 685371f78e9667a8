import pytest
from pydantic import ValidationError

from batchflow.simulator.faults.outages import ActiveOutages, Outage


def strikes(faults: ActiveOutages, operation: str = "batches.create", *, now: float = 0.0) -> bool:
    return faults.match(operation, now=now) is not None


def test_an_outage_hits_only_its_operations() -> None:
    faults = ActiveOutages([Outage(operations=("batches.*", "files.create"))], seed=0, now=0)
    assert strikes(faults, "batches.create")
    assert strikes(faults, "batches.list")
    assert strikes(faults, "files.create")
    assert not strikes(faults, "files.content")


def test_an_outage_ends_with_its_count_or_its_time() -> None:
    faults = ActiveOutages([Outage(count=2), Outage(status=500, duration_s=10)], seed=0, now=100)
    hits = [faults.match("files.list", now=105) for _ in range(3)]
    assert [hit.status for hit in hits if hit] == [503, 503, 500]
    assert not strikes(faults, now=110)
    assert faults.active(now=110) == []


def test_an_outage_hits_its_share_of_the_calls_repeatably() -> None:
    hits = []
    for _ in range(2):
        faults = ActiveOutages([Outage(share=0.5)], seed=1, now=0)
        hits.append([strikes(faults) for _ in range(400)])
    assert hits[0] == hits[1]
    assert 140 < sum(hits[0]) < 260


def test_everything_works_after_the_end() -> None:
    faults = ActiveOutages([Outage()], seed=0, now=0)
    faults.end_all()
    assert not strikes(faults)


@pytest.mark.parametrize(
    "fields",
    [
        {"operations": ["batches.explode"]},
        {"status": 204},
        {"share": 1.5},
        {"count": 0},
        {"delay_s": float("inf")},
        {"kind": "drop"},
    ],
)
def test_an_impossible_outage_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Outage.model_validate(fields)
