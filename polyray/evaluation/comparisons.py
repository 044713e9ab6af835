"""Every model against the baseline, then the remaining pairs where they are asked for: differences with intervals,
tests and effect sizes.

The family over which p-values are adjusted is all (metric, k, pair) of one evaluation, and each entry says so.
Called by scoring.py; the statistics are polyray.metrics.comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polyray.config.evaluation import EvaluationSpec
from polyray.evaluation.per_prompt import MetricKey, PromptTable
from polyray.metrics.comparison import PairComparison, compare_metrics

COMPARED_METRICS = ("pass_at_k", "distinct_correct_at_k", "usq_at_k", "best_at_k")


def compare_tables(
    tables: Sequence[PromptTable], baseline: str, spec: EvaluationSpec, seed: int
) -> list[dict[str, Any]]:
    """One entry per pair, metric and k: the later model minus the earlier one, paired by prompt.

    Nothing where there is one model, or one cluster of prompts. A metric that some model lacks (its selector was
    refused) is compared between the others, as a family of its own.
    """
    clusters = next(table.clusters for table in tables if table.model == baseline)
    if len(tables) < 2 or len(set(clusters)) < 2:
        return []
    columns: dict[tuple[str, ...], dict[str, dict[str, np.ndarray]]] = {}
    for key in _compared_keys(tables):
        values = {table.model: table.values[key] for table in tables if key in table.values}
        if baseline in values and len(values) > 1:
            columns.setdefault(tuple(values), {})["\t".join(key)] = values
    entries: list[dict[str, Any]] = []
    for metrics in columns.values():
        margins = {name: spec.margin for name in metrics if spec.margin and name == "pass_at_k\t1"}
        result = compare_metrics(
            metrics,
            clusters=clusters,
            baseline=baseline,
            all_pairs=spec.comparisons == "all",
            margins=margins or None,
            resamples=spec.bootstrap_resamples,
            confidence=spec.confidence,
            seed=seed,
        )
        family = f"{result.family}, holm"
        entries += [_entry(pair, family) for pair in result.pairs]
    pairs = list(dict.fromkeys((entry["model"], entry["baseline"]) for entry in entries))
    return sorted(entries, key=lambda entry: pairs.index((entry["model"], entry["baseline"])))


def _compared_keys(tables: Sequence[PromptTable]) -> list[MetricKey]:
    """Compared keys in order of appearance; without best@k if all rewards are 0 or a pass."""
    graded = any(table.graded for table in tables)
    keys = dict.fromkeys(key for table in tables for key in table.values)
    wanted = [name for name in COMPARED_METRICS if graded or name != "best_at_k"]
    return [key for key in keys if key[0].partition("/")[0] in wanted]


def _entry(pair: PairComparison, family: str) -> dict[str, Any]:
    metric, _, k = pair.metric.partition("\t")
    values = pair.as_json()
    del values["metric"]
    return {
        "metric": metric,
        "k": int(k),
        "model": pair.model,
        "baseline": pair.baseline,
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p": pair.primary.p_value,
        "p_adjusted": pair.p_adjusted,
        "family": family,
        **{name: value for name, value in values.items() if name not in ("model", "baseline", "difference")},
    }
