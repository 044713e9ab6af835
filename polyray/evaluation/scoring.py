"""Samples of any number of models -> metrics.json: values, intervals, paired comparisons.

    {"dataset_sha256", "n_problems", "n_clusters", "n_samples", "seed", "selector", "baseline", "confidence",
    ...,
     "models": {NAME: {METRIC: {K or "value": {"value", "low", "high"}}}},
     "comparisons": [{"metric", "k", "model", "baseline", "difference", "low", "high"}, ...]}

All intervals are percentile bootstraps over clusters, and all of them share the same resamples: a difference
of two models is resampled with the same prompts in both, which is what makes it paired. Called by sampling.py
after an evaluation and by `jobs.evaluate score` on its samples.jsonl; both give the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from polyray.config.evaluation import EvaluationSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.per_prompt import (
    PASS_THRESHOLD,
    MetricKey,
    PromptTable,
    compute_table,
    group_by_model,
    has_graded_rewards,
)
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.selectors import get_selector

COMPARED_METRICS = ("pass_at_k", "distinct_correct_at_k", "usq_at_k", "best_at_k")


@dataclass(frozen=True, slots=True)
class ClusterBootstrap:
    """Resamples of clusters, drawn once and applied to any number of per-prompt columns.

    A resampled mean is the sum over the drawn clusters' prompts divided by their number, so clusters of
    different size are weighted by their prompts.
    """

    prompt_clusters_P: np.ndarray
    """[P] int, which cluster a prompt belongs to."""
    counts_BC: np.ndarray
    """[resamples, clusters] float64: how often a cluster was drawn."""
    confidence: float

    @classmethod
    def draw(cls, clusters: Sequence[str], resamples: int, confidence: float, seed: int) -> ClusterBootstrap:
        """Draws as many clusters as there are, with replacement, `resamples` times."""
        names, prompt_clusters_P = np.unique(np.asarray(clusters), return_inverse=True)
        drawn_BC = np.random.default_rng(seed).integers(0, len(names), size=(resamples, len(names)))
        counts_BC = np.stack([np.bincount(row, minlength=len(names)) for row in drawn_BC]).astype(np.float64)
        return cls(prompt_clusters_P, counts_BC, confidence)

    @property
    def num_clusters(self) -> int:
        """How many units the intervals rest on."""
        return self.counts_BC.shape[1]

    def intervals(self, values_PM: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, lower and upper bounds [M] each, of M per-prompt columns."""
        sums_CM = np.zeros((self.num_clusters, values_PM.shape[1]))
        np.add.at(sums_CM, self.prompt_clusters_P, values_PM)
        sizes_C = np.bincount(self.prompt_clusters_P, minlength=self.num_clusters).astype(np.float64)
        means_BM = (self.counts_BC @ sums_CM) / (self.counts_BC @ sizes_C)[:, None]
        tail = (1.0 - self.confidence) / 2.0
        low_M, high_M = np.quantile(means_BM, [tail, 1.0 - tail], axis=0)
        return values_PM.mean(axis=0), low_M, high_M


def score_samples(
    records: Sequence[SampleRecord],
    spec: EvaluationSpec,
    *,
    seed: int,
    baseline: str | None = None,
    pass_threshold: float = PASS_THRESHOLD,
) -> dict[str, Any]:
    """The contents of metrics.json; `baseline` defaults to the first model.

    Raises ConfigError for an unknown selector or baseline, DataError for prompts without enough scored
    samples or models that were not asked the same prompts.
    """
    grouped = group_by_model(records)
    baseline = _checked_baseline(baseline, list(grouped))
    graded = has_graded_rewards(records, pass_threshold)
    selector = get_selector(spec.selector)
    tables = [
        compute_table(
            model,
            _in_order_of(prompts, grouped[baseline], model, baseline),
            ks=spec.ks,
            selector=selector,
            graded=graded,
            pass_threshold=pass_threshold,
        )
        for model, prompts in grouped.items()
    ]
    clusters = next(table.clusters for table in tables if table.model == baseline)
    bootstrap = ClusterBootstrap.draw(clusters, spec.bootstrap_resamples, spec.confidence, seed)
    return {
        "dataset_sha256": dataset_sha256(records),
        "n_problems": len(clusters),
        "n_clusters": bootstrap.num_clusters,
        "n_samples": max(table.num_samples for table in tables),
        "seed": seed,
        "selector": spec.selector,
        "baseline": baseline,
        "confidence": spec.confidence,
        "bootstrap_resamples": spec.bootstrap_resamples,
        "pass_threshold": pass_threshold,
        "models": _model_values(tables, bootstrap),
        "comparisons": _comparisons(tables, baseline, bootstrap),
    }


def dataset_sha256(records: Iterable[SampleRecord]) -> str:
    """A hash of which prompts were asked, whatever the order: equal for equal held-out sets."""
    asked = sorted({f"{record.task_id}\t{record.prompt_sha256}" for record in records})
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()


def _checked_baseline(baseline: str | None, models: Sequence[str]) -> str:
    if baseline is None:
        return models[0]
    if baseline not in models:
        raise ConfigError(f"compare_to={baseline!r} is none of the sampled models: {', '.join(models)}")
    return baseline


def _in_order_of(
    prompts: dict[str, list[SampleRecord]],
    reference: dict[str, list[SampleRecord]],
    model: str,
    baseline: str,
) -> dict[str, list[SampleRecord]]:
    """The same prompts in the baseline's order; pairing needs equal sets."""
    different = sorted(prompts.keys() ^ reference.keys())
    if different:
        raise DataError(
            f"{model} and {baseline} were not asked the same prompts: {len(different)} differ, the first is "
            f"{different[0]}; evaluate all models on one set"
        )
    return {task_id: prompts[task_id] for task_id in reference}


def _model_values(tables: Sequence[PromptTable], bootstrap: ClusterBootstrap) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for table in tables:
        keys = list(table.values)
        mean_M, low_M, high_M = bootstrap.intervals(np.stack([table.values[key] for key in keys], axis=1))
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        for (metric, k), mean, low, high in zip(keys, mean_M, low_M, high_M, strict=True):
            metrics.setdefault(metric, {})[k] = {"value": float(mean), "low": float(low), "high": float(high)}
        models[table.model] = metrics
    return models


def _comparisons(
    tables: Sequence[PromptTable], baseline: str, bootstrap: ClusterBootstrap
) -> list[dict[str, Any]]:
    """Every model against the baseline, then the remaining pairs, the later model against the earlier one."""
    ordered = sorted(tables, key=lambda table: table.model != baseline)
    found: list[dict[str, Any]] = []
    for reference, table in combinations(ordered, 2):
        keys: list[MetricKey] = [key for key in table.values if key[0] in COMPARED_METRICS]
        differences_PM = np.stack([table.values[key] - reference.values[key] for key in keys], axis=1)
        for (metric, k), mean, low, high in zip(keys, *bootstrap.intervals(differences_PM), strict=True):
            entry = {"metric": metric, "k": int(k), "model": table.model, "baseline": reference.model}
            found.append(entry | {"difference": float(mean), "low": float(low), "high": float(high)})
    return found
