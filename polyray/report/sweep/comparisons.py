"""Every setting against the baseline value of the swept weight: differences, tests, effect sizes, Holm.

Settings are compared with the baseline that shares their other parameters. p-values are those of sign flips over
clusters of prompts, of the means over seeds; a handful of seeds cannot carry a test of its own (three give
p = 0.25 at best). The hierarchical interval covers other seeds, and a difference counts as shown only if both
agree. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyray.evaluation.per_prompt import MetricKey
from polyray.metrics import PairComparison, compare_metrics, holm
from polyray.report.sweep.settings import Setting
from polyray.report.sweep.values import SweepValues, metric_name


def compare_with_baseline(
    settings: Sequence[Setting],
    values: SweepValues,
    keys: Sequence[MetricKey],
    baseline: float | None,
    seed: int,
) -> dict[str, Any]:
    """{"baseline", "family", "correction", "notes", "pairs"}; no pairs where there is nothing to compare with.

    Args:
        settings: those of which a trial counts.
        keys: the metrics that are tested; all their tests together are the family.
        baseline: of the swept weight; None: nothing is tested.
    """
    result: dict[str, Any] = {
        "baseline": baseline,
        "correction": "holm",
        "family": None,
        "notes": [],
        "pairs": [],
    }
    if baseline is None:
        return result | {"notes": ["No baseline was named, so nothing was tested against one."]}
    if len(set(values.clusters)) < 2:
        return result | {"notes": ["All prompts are one cluster, so nothing can be tested."]}
    compared: list[tuple[Setting, PairComparison]] = []
    without: list[str] = []
    for block in dict.fromkeys(setting.block for setting in settings):
        own = [setting for setting in settings if setting.block == block]
        reference = next((setting for setting in own if setting.value == baseline), None)
        others = [setting for setting in own if setting is not reference]
        if reference is None:
            without += [setting.label for setting in others]
        elif others:
            compared += _compared(others, reference, values, keys, seed)
    if without:
        result["notes"] = [
            f"No evaluated trial has the baseline value {baseline:g} and the same other parameters, so these are "
            f"not tested: {'; '.join(without)}."
        ]
    if not compared:
        return result
    adjusted = holm([pair.primary.p_value for _, pair in compared])
    pairs = [
        _entry(setting, pair, float(p), values.confidence)
        for (setting, pair), p in zip(compared, adjusted, strict=True)
    ]
    num_settings = len({setting.label for setting, _ in compared})
    family = f"{len(pairs)} tests: {len(keys)} metrics x {num_settings} settings against the baseline"
    return result | {"family": family, "pairs": pairs}


def _compared(
    others: Sequence[Setting],
    reference: Setting,
    values: SweepValues,
    keys: Sequence[MetricKey],
    seed: int,
) -> list[tuple[Setting, PairComparison]]:
    by_label = {setting.label: setting for setting in (reference, *others)}
    found = compare_metrics(
        {
            metric_name(key): {
                label: values.matrix(setting.members, key) for label, setting in by_label.items()
            }
            for key in keys
        },
        clusters=values.clusters,
        baseline=reference.label,
        resamples=values.resamples,
        confidence=values.confidence,
        seed=seed,
    )
    return [(by_label[pair.model], pair) for pair in found.pairs]


def _entry(setting: Setting, pair: PairComparison, p_adjusted: float, confidence: float) -> dict[str, Any]:
    """`low` and `high` are over seeds and prompts where there are several seeds, else over prompts alone."""
    interval = pair.hierarchical
    low, high = (pair.low, pair.high) if interval is None else (interval.low, interval.high)
    shown = p_adjusted < 1 - confidence and (low > 0 or high < 0)
    direction = "higher" if pair.difference > 0 else "lower"
    return {
        "metric": pair.metric,
        "setting": setting.label,
        "value": setting.value,
        "baseline": pair.baseline,
        "mean": pair.mean,
        "baseline_mean": pair.baseline_mean,
        "difference": pair.difference,
        "low": low,
        "high": high,
        "over_prompts": {"low": pair.low, "high": pair.high},
        "num_seeds": list(pair.num_seeds),
        "p": pair.primary.p_value,
        "p_adjusted": p_adjusted,
        "verdict": direction if shown else "no difference shown",
        "effect_sizes": pair.effect_sizes.as_json(),
        "tests": [test.as_json() for test in (pair.primary, pair.mann_whitney)],
    }
