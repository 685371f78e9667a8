"""The dashboard, the alerts and docs/metrics.md are complete and use existing metrics."""

import re
from itertools import combinations
from typing import Any

import pytest

from batchflow.gateway.metrics.collector import FleetCollector
from batchflow.overview import health
from batchflow.queue import Queue
from batchflow.queue.lengths import QueueLength
from batchflow.settings import Settings
from tests.kit.monitoring import METRICS_PAGE, alerts, dashboard, expressions, panels
from tests.kit.promql import result_labels, selectors
from tests.kit.snapshots import a_snapshot

ALERTS = {rule["alert"]: rule for rule in alerts()}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: The columns of Grafana's grid.
WIDTH = 24

_PAGE = METRICS_PAGE.read_text("utf-8")
_ROW = re.compile(
    r"^\| `(batchflow_\w+)` \| (\w+) \| (\w*) ?\| ([^|]*) ?\| ([^|]+) \|$", re.MULTILINE
)
_ALERT_ROW = re.compile(r"^\| `(Batchflow\w+)` \| (\w+) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)
_LABEL_IN_TEXT = re.compile(r"\$labels\.(\w+)")


# Expressions


@pytest.mark.parametrize(("whose", "expression"), list(expressions()))
def test_several_gateways_count_once(whose: str, expression: str) -> None:
    found = selectors(expression)
    assert found, whose
    assert all(selector.once for selector in found)
    assert all("instance" not in group for selector in found for group in selector.grouped)


# Alerts


def test_alerts_have_distinct_names() -> None:
    assert len(ALERTS) == len(alerts())
    assert all(re.fullmatch(r"Batchflow[A-Z][A-Za-z]+", name) for name in ALERTS)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_complete(rule: dict[str, Any]) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"[1-9][0-9]?m", rule["for"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description"}
    for text in annotations.values():
        assert re.fullmatch(r"\S.*\.", text, re.DOTALL)
        assert "\n" not in text
    assert len(annotations["summary"]) < 120 < len(annotations["description"])
    named = set(_LABEL_IN_TEXT.findall(" ".join(annotations.values())))
    assert named <= result_labels(rule["expr"])


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_alerts_distinguish_installations(rule: dict[str, Any]) -> None:
    # The result of absent() has no labels.
    assert "job" in result_labels(rule["expr"]) or rule["expr"].startswith("absent(")


def threshold(alert: str, metric: str) -> float:
    """The limit that an alert has for a metric."""
    found = re.search(rf"{metric}\)? [<>] ([0-9]+)", ALERTS[alert]["expr"])
    assert found
    return float(found[1])


def test_no_limit_of_an_alert_is_below_that_of_the_health_policy() -> None:
    """With the default settings, so that the page and doctor agree with the alert."""
    settings = Settings()
    sweep_s = threshold("BatchflowSweepStopped", "batchflow_sweep_age_seconds")
    assert health.beat_has_stopped(sweep_s, settings.sweep_interval_s)
    poll_s = threshold("BatchflowPollStale", "batchflow_poll_age_seconds")
    assert health.polls_have_stopped(poll_s, settings.poll_interval_s)
    due_s = threshold("BatchflowJobsOverdue", "batchflow_due_lag_seconds")
    assert health.job_is_overdue(due_s, settings.sweep_interval_s)
    message_s = threshold("BatchflowQueueOld", "batchflow_queue_oldest_message_age_seconds")
    assert message_s >= health.MESSAGE_WAITS_LONG_S
    assert threshold("BatchflowResultsUncollected", "batchflow_uncollected_jobs") == 0
    assert threshold("BatchflowUnreadableRecords", "batchflow_unreadable_records") == 0
    backoff_s = threshold("BatchflowCredentialBackedOff", "backoff_seconds\\[10m\\]\\)\\s*")
    assert backoff_s >= health.LONG_BACKOFF_S


# Dashboard


def test_grafana_can_import_the_dashboard() -> None:
    found = dashboard()
    assert (found["title"], found["uid"]) == ("Batchflow", "batchflow")
    # Grafana assigns the id during the import.
    assert "id" not in found
    assert "__inputs" not in found
    variables = {variable["name"]: variable for variable in found["templating"]["list"]}
    assert list(variables) == ["datasource", "job"]
    assert variables["datasource"]["type"] == "datasource"
    assert variables["job"]["datasource"] == DATASOURCE
    query = variables["job"]["query"]["query"]
    assert re.fullmatch(r"label_values\(batchflow_redis_up, job\)", query)
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_are_grouped_by_question() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == ["Is it working?", "What waits?", "OpenAI", "Queues and workers", "Tokens"]


def test_panels_do_not_overlap() -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, f"{panel['title']} overlaps {cells[x, y]}"
                cells[x, y] = panel["title"]
    assert len(cells) == WIDTH * (1 + max(y for _, y in cells)), "there are holes"


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_has_a_description_and_selects_one_installation(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == DATASOURCE
    assert panel["fieldConfig"]["defaults"]["unit"]
    for one, other in combinations(panel["targets"], 2):
        assert one["refId"] != other["refId"]
        assert one["legendFormat"] != other["legendFormat"]
    for target in panel["targets"]:
        assert target["datasource"] == DATASOURCE
        assert target["instant"] != target["range"]
        for selector in selectors(target["expr"]):
            assert selector.matched["job"] == ("Equal", "$job")
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        # A quantile is computed from all buckets.
        assert shown == result_labels(target["expr"]) - {"le"}


# docs/metrics.md


def test_the_page_lists_every_metric() -> None:
    families = list(
        FleetCollector(a_snapshot(), {queue: QueueLength(0) for queue in Queue}).collect()
    )
    there = {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.unit)
        for family in families
    }
    listed = _ROW.findall(_PAGE)
    assert {name: (kind, unit) for name, kind, unit, _, _ in listed} == there
    assert len(listed) == len(there)
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        page = next(row[3] for row in listed if row[0].removesuffix("_total") == family.name)
        assert labels in (set(), set(re.findall(r"`(\w+)`", page)))


def test_the_page_lists_every_alert() -> None:
    listed = dict(_ALERT_ROW.findall(_PAGE))
    assert listed == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}
