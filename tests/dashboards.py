"""Metrics that deploy/grafana queries and that our code exports: names, labels, units."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray.util.metrics import Counter, Histogram, Metric

from polyray.orchestrator.monitoring import Instruments
from polyray.serving.generation.metrics import GenerationMetrics
from polyray.serving.reward.metrics import RewardMetrics

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "grafana"
DASHBOARDS = ("training.json", "serving.json")
REPLICA_TAGS = frozenset({"application", "deployment", "replica"})
"""What Serve adds in a replica."""

_SELECTOR = re.compile(r"\b(ray_[a-z0-9_]+)\s*(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|without|on)\s*\(([^)]*)\)")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and where it stands.

    Example:
        Query(where="training.json: Idle", expression="max(ray_polyray_train_idle_share)", unit="percentunit")
    """

    where: str
    expression: str
    unit: str | None = None
    legend: str = ""

    @property
    def selectors(self) -> list[tuple[str, frozenset[str]]]:
        """(metric, labels it is selected by), for every place where one is named."""
        found = _SELECTOR.findall(self.expression)
        return [(name, frozenset(_MATCHER.findall(matchers))) for name, matchers in found]

    @property
    def grouped_by(self) -> frozenset[str]:
        """Labels of every `by (...)`."""
        groups = _GROUPING.findall(self.expression)
        return frozenset(label.strip() for group in groups for label in group.split(",") if label.strip())

    @property
    def labels_left(self) -> frozenset[str]:
        """Labels that a legend or an annotation may name: those of the first grouping that drops `le`."""
        groups = [
            frozenset(part.strip() for part in group.split(","))
            for group in _GROUPING.findall(self.expression)
        ]
        return frozenset().union(*groups) - {"le"}


def panels(file: str) -> Iterator[dict[str, Any]]:
    """Panels of a dashboard that draw something."""
    board = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    return (panel for panel in board["panels"] if panel["type"] != "row")


def panel_queries(file: str) -> list[Query]:
    """Every target of every panel."""
    return [
        Query(
            f"{file}: {panel['title']}",
            target["expr"],
            panel["fieldConfig"]["defaults"]["unit"],
            target["legendFormat"],
        )
        for panel in panels(file)
        for target in panel["targets"]
    ]


def alert_rules() -> list[dict[str, Any]]:
    """All of alerts.yaml."""
    file = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in file["groups"] for rule in group["rules"]]


def alert_queries() -> list[Query]:
    """Every alert, its annotations as the legend."""
    return [
        Query(f"alerts.yaml: {rule['alert']}", rule["expr"], None, " ".join(rule["annotations"].values()))
        for rule in alert_rules()
    ]


def exported_names() -> dict[str, frozenset[str]]:
    """Name in Prometheus -> labels, from the definitions of the code."""
    exported: dict[str, frozenset[str]] = {}
    run = Instruments()
    own: list[tuple[Any, frozenset[str]]] = [
        *((gauge, frozenset()) for gauge in run.gauges.values()),
        (run.delivery_seconds, frozenset()),
    ]
    for service in (GenerationMetrics(), RewardMetrics()):
        own += [(metric, REPLICA_TAGS) for metric in vars(service).values() if isinstance(metric, Metric)]
    for metric, added in own:
        name, tags = f"ray_{metric.info['name']}", frozenset(metric.info["tag_keys"]) | added
        if isinstance(metric, Counter):
            exported[f"{name}_total"] = tags
        elif isinstance(metric, Histogram):
            exported |= {f"{name}_bucket": tags | {"le"}, f"{name}_sum": tags, f"{name}_count": tags}
        else:
            exported[name] = tags
    return exported
