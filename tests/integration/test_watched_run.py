"""A real run exports what the training dashboard and its alerts query, with the labels they use."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import httpx
import pytest
import ray

from polyray.config.run import TrainConfig
from polyray.launch.fleet import Fleet
from polyray.runs.jsonl import read_jsonl
from tests.conftest import run_training
from tests.dashboards import alert_queries, panel_queries

NOT_OF_THIS_RUN = {
    "ray_polyray_train_learner_gpu_memory_bytes",  # no GPU
    "ray_polyray_train_reward_component",  # its reward has no parts
}
PREFIX = "ray_polyray_train_"
SERIES = re.compile(r"^(ray_polyray_train_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


def exporters() -> list[str]:
    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes()
    ]


class Watcher(threading.Thread):
    """Asks Ray's agent as Prometheus would, and keeps the newest answer of each series."""

    def __init__(self, run: str) -> None:
        super().__init__(name="watcher", daemon=True)
        self._run, self._urls, self.over = run, exporters(), threading.Event()
        self.labels: dict[str, set[str]] = {}
        self.values: dict[str, list[float]] = {}

    def run(self) -> None:
        while not self.over.wait(1.0):
            for url in self._urls:
                try:
                    text = httpx.get(url, timeout=5).text
                except httpx.HTTPError:
                    continue
                for name, labels, value in SERIES.findall(text):
                    pairs = dict(LABEL.findall(labels))
                    if pairs.get("run") == self._run:
                        self.labels.setdefault(name, set()).update(pairs)
                        self.values.setdefault(name, []).append(float(value))


@pytest.mark.slow  # Ray's agent takes what it exports every ten seconds
def test_run_exports_the_metrics_of_panels_and_alerts(
    varied_fleet: Fleet, varied_config: Callable[..., TrainConfig]
) -> None:
    evaluation = {"every": 5, "num_prompts": 4, "num_samples": 2}
    config = varied_config("watched", learner__steps=60, evaluation=evaluation)
    watcher = Watcher("watched")
    watcher.start()
    paths = run_training(config, varied_fleet)
    watcher.over.set()
    watcher.join(10)
    queries = [*panel_queries("training.json"), *alert_queries()]
    asked = {
        (name, label)
        for query in queries
        for name, labels in query.selectors
        for label in labels | query.grouped_by | {"run"}
        if name.startswith(PREFIX) and name not in NOT_OF_THIS_RUN
    }
    seen = {(name, label) for name, labels in watcher.labels.items() for label in labels}
    assert len({name for name, _ in asked}) >= 40
    assert asked - seen == set()
    rewards = {round(float(line["reward_mean"]), 6) for line in read_jsonl(paths.metrics)}
    shown = {round(value, 6) for value in watcher.values[PREFIX + "reward_mean"]}
    assert shown and shown <= rewards
    assert max(watcher.values[PREFIX + "step"]) <= 59 and set(watcher.values[PREFIX + "target_steps"]) == {
        60.0
    }
