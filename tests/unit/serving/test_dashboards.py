"""deploy/grafana against the code: what a panel or an alert queries is exported, with these labels and units.

That a real run exports it is tests/integration/test_watched_run.py.
"""

from __future__ import annotations

import json
import re

import pytest

from polyray.orchestrator.monitoring import PREFIX
from tests.dashboards import (
    DASHBOARDS,
    FOLDER,
    REPLICA_TAGS,
    Query,
    alert_queries,
    alert_rules,
    exported_names,
    panel_queries,
    panels,
)

NODE_TAGS = frozenset({"instance", "ip", "SessionName", "RayNodeType"})
OF_RAY: dict[str, frozenset[str]] = {
    "ray_node_mem_used": NODE_TAGS,
    "ray_node_gram_used": NODE_TAGS | {"GpuIndex"},
    "ray_node_gpus_utilization": NODE_TAGS | {"GpuIndex"},
    "ray_serve_deployment_replica_healthy": REPLICA_TAGS,
}
"""Ray's own that a panel shows; `instance` is Prometheus' word for the node."""

QUERIES = [*panel_queries("training.json"), *panel_queries("serving.json"), *alert_queries()]
UNITS = {"_seconds": {"s"}, "_seconds_bucket": {"s"}, "_bytes": {"bytes"}, "_share": {"percentunit"}}
EXPORTED = exported_names() | OF_RAY


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_query_uses_exported_metrics_and_labels(query: Query) -> None:
    assert query.selectors
    for name, labels in query.selectors:
        assert name in EXPORTED, f"{query.where}: nothing exports {name}"
        assert labels <= EXPORTED[name], f"{query.where}: {name} has no {labels - EXPORTED[name]}"
        assert query.grouped_by <= EXPORTED[name], f"{query.where}: {name} is grouped by another's label"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_query_legend_uses_remaining_labels(query: Query) -> None:
    in_legends = re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", query.legend)
    assert set(in_legends) <= query.labels_left and in_legends


@pytest.mark.parametrize("file", DASHBOARDS)
def test_units_of_panels_match_the_names_of_metrics(file: str) -> None:
    checked = 0
    for query in panel_queries(file):
        for name, _ in query.selectors:
            for ending, units in UNITS.items():
                if name.endswith(ending):
                    assert query.unit in units, f"{query.where}: {name} is shown in {query.unit}"
                    checked += 1
    assert checked >= 8


def test_query_of_a_quantile_keeps_le_and_of_a_total_takes_its_rate() -> None:
    for query in QUERIES:
        assert ("histogram_quantile" in query.expression) == ("_bucket" in query.expression)
        if "_bucket" in query.expression:
            assert "le" in query.grouped_by
        if query.where.startswith("training") and "_total" in query.expression:
            assert re.search(r"\b(rate|increase)\(", query.expression), query.where


def test_dashboard_shows_every_metric_of_a_run() -> None:
    asked = {name for query in panel_queries("training.json") for name, _ in query.selectors}
    variables = (FOLDER / "training.json").read_text(encoding="utf-8")
    series = {
        name
        for name in exported_names()
        if name.startswith(f"ray_{PREFIX}") and not name.endswith(("_sum", "_count"))
    }
    left_out = {"ray_polyray_train_reward_std"}
    assert series - asked - left_out == {"ray_polyray_train_info"} and "ray_polyray_train_info" in variables


@pytest.mark.parametrize("file", DASHBOARDS)
def test_dashboard_can_be_imported(file: str) -> None:
    board = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    assert board["uid"].startswith("polyray-") and board["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & places and max(x for x, _ in cells) < 24, panel["title"]
        places |= cells
    for panel in panels(file):
        assert panel["description"] and panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", " ".join(query.expression for query in panel_queries(file))))
    assert used - {"__rate_interval", "__range"} <= variables


def test_alerts_have_severity_summary_and_description() -> None:
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 15
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["annotations"]["description"].endswith(".")


def test_queries_of_the_first_token_say_streamed() -> None:
    """Only streamed requests have a time to the first token."""
    found = [query for query in QUERIES if "first_token_seconds" in query.expression]
    assert len(found) == 3  # a panel's two curves, and an alert
    assert all("streamed" in f"{query.where} {query.legend}" for query in found)
