"""Metrics of the service with their tags, after Ray's own checks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ray.util.metrics import Metric

from polyray.serving.generation import metrics as generation_metrics
from polyray.serving.generation.metrics import GenerationMetrics, ModelCounts

Recorded = list[tuple[str, float, dict[str, str]]]
PREFIX = "polyray_generation_"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """(name without the common prefix, value, tags) of all recorded values; Serve's own metrics go on beside it."""
    values: Recorded = []

    def record(metric: Any, value: float, tags: dict[str, str] | None = None) -> None:
        if not metric.info["name"].startswith(PREFIX):
            return
        complete = metric._get_final_tags(tags)
        metric._validate_tags(complete)
        assert set(complete) == set(metric.info["tag_keys"])
        values.append((metric.info["name"].removeprefix(PREFIX), value, dict(complete)))

    monkeypatch.setattr(Metric, "_record", record)
    return values


def test_metrics_are_recorded_with_their_tags_and_zero_counts_are_not(recorded: Recorded) -> None:
    metrics = GenerationMetrics()
    metrics.request("/v1/candidates/{candidates_id}", 499, 0.25)
    metrics.reject("queue_full")
    metrics.first_token(0.02)
    metrics.completed("policy-v17", num_completions=8, num_tokens=96)
    metrics.completed("base", num_completions=0, num_tokens=0)
    metrics.load(num_queued=0, num_running=3)
    metrics.cancel(4)
    metrics.cancel(0)
    metrics.adapter("loaded", difference=2e-6)
    metrics.adapter("refused")
    metrics.selection("edited")
    assert recorded == [
        ("requests", 1, {"route": "/v1/candidates/{candidates_id}", "status": "499"}),
        ("request_seconds", 0.25, {"route": "/v1/candidates/{candidates_id}"}),
        ("rejected", 1, {"reason": "queue_full"}),
        ("first_token_seconds", 0.02, {}),
        ("completions", 8, {"model": "policy-v17"}),
        ("tokens_generated", 96, {"model": "policy-v17"}),
        ("queued_sequences", 0, {}),
        ("running_sequences", 3, {}),
        ("cancelled", 4, {}),
        ("adapters_loaded", 1, {"outcome": "loaded"}),
        ("delivery_difference", 2e-6, {}),
        ("adapters_loaded", 1, {"outcome": "refused"}),
        ("selections", 1, {"outcome": "edited"}),
    ]


def test_metrics_count_by_model_up_to_a_number_of_models(recorded: Recorded) -> None:
    metrics = GenerationMetrics(max_models=2)
    for model, tokens in (("base", 5), ("policy-v1", 96), ("policy-v2", 1), ("base", 7)):
        metrics.completed(model, num_completions=1, num_tokens=tokens)
    counts = metrics.counts_by_model()
    assert list(counts.items()) == [("policy-v2", ModelCounts(1, 1)), ("base", ModelCounts(1, 7))]
    metrics.completed("base", 1, 1)
    assert counts["base"] == ModelCounts(1, 7)  # a snapshot
    models = [tags["model"] for name, _, tags in recorded if name == "completions"]
    assert models == ["base", "policy-v1", "other", "base", "base"]


def test_metrics_docstring_lists_every_metric_and_its_tags() -> None:
    listed = {
        name: tuple(tags.split(", ")) if tags else ()
        for name, tags in re.findall(rf"{PREFIX}(\w+)(?:\{{([\w, ]+)\}})?", generation_metrics.__doc__ or "")
    }
    made = {
        value.info["name"].removeprefix(PREFIX): value.info["tag_keys"]
        for value in vars(GenerationMetrics()).values()
        if isinstance(value, Metric)
    }
    assert listed == made
