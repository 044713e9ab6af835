"""Recommended value of the swept weight, with its rule and its range.

    best = highest mean of the criterion
    near = settings whose difference to the best, with its interval over seeds and prompts, stays above -margin
    range = values around the best between which every swept value is near
    recommended = the smallest value of the range: the least departure from the objective without the weight

Called by results.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from polyray.evaluation.per_prompt import MetricKey
from polyray.metrics import paired_hierarchical_bootstrap
from polyray.report.sweep.settings import Setting
from polyray.report.sweep.values import SweepValues, metric_name, metric_words

Mode = Literal["max", "min"]


def recommend(
    settings: Sequence[Setting],
    values: SweepValues,
    key: MetricKey,
    margin: float,
    seed: int,
    *,
    is_ordered: bool,
) -> dict[str, Any]:
    """The recommendation by one criterion; `settings` are those of which a trial counts, at least one.

    Arms have no order: the best one is recommended.
    """
    complete = [setting for setting in settings if setting.is_complete] or list(settings)
    means = {
        setting.label: float(values.matrix(setting.members, key).mean(axis=1).mean()) for setting in complete
    }
    best = max(complete, key=lambda setting: means[setting.label])
    same_others = [setting for setting in complete if setting.block == best.block]
    pool = same_others if len(same_others) > 1 else complete
    differences = {setting.label: _difference(setting, best, values, key, margin, seed) for setting in pool}
    position = pool.index(best)
    low = high = position
    while is_ordered and low > 0 and differences[pool[low - 1].label]["is_near"]:
        low -= 1
    while is_ordered and high + 1 < len(pool) and differences[pool[high + 1].label]["is_near"]:
        high += 1
    chosen, run = pool[low], pool[low : high + 1]
    return {
        "criterion": metric_name(key),
        "margin": margin,
        "rule": _rule(key, margin, values.confidence, is_ordered)
        + _eligible(best, len(same_others) > 1, len(complete) < len(settings)),
        "setting": chosen.label,
        "value": chosen.value,
        "others": dict(chosen.others),
        "mean": means[chosen.label],
        "best": {"setting": best.label, "value": best.value, "mean": means[best.label]},
        "range": {"low": run[0].value, "high": run[-1].value, "settings": [setting.label for setting in run]},
        "not_eligible": [setting.label for setting in settings if setting not in complete],
        "also_near": [
            setting.label for setting in pool if differences[setting.label]["is_near"] and setting not in run
        ],
        "differences_to_best": list(differences.values()),
    }


def adapter_choice(setting: Setting, mode: Mode) -> dict[str, str]:
    """Choose the adapter among the seeds that count, and say why; never by the evaluation's own prompts."""
    known = [
        (trial.metric, trial)
        for trial in setting.members
        if trial.metric is not None and np.isfinite(trial.metric)
    ]
    if not known:
        return {
            "adapter": setting.members[0].trial_id,
            "adapter_rule": "the setting's first seed; no seed of it has a validation metric",
        }
    best = max if mode == "max" else min
    _, chosen = best(known, key=lambda pair: pair[0])
    return {
        "adapter": chosen.trial_id,
        "adapter_rule": "the setting's best seed on the validation metric, not on these prompts",
    }


def _difference(
    setting: Setting, best: Setting, values: SweepValues, key: MetricKey, margin: float, seed: int
) -> dict[str, Any]:
    entry = {"setting": setting.label, "value": setting.value}
    if setting is best:
        return entry | {"difference": 0.0, "low": 0.0, "high": 0.0, "is_near": True}
    found = paired_hierarchical_bootstrap(
        values.matrix(setting.members, key),
        values.matrix(best.members, key),
        values.clusters,
        values.resamples,
        values.confidence,
        seed,
    )
    return entry | {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "is_near": found.low >= -margin,
    }


def _rule(key: MetricKey, margin: float, confidence: float, is_ordered: bool) -> str:
    recommended = (
        "the smallest value from which every swept value up to the best is near" if is_ordered else "the best"
    )
    return (
        f"The best setting has the highest {metric_words(key)}, the mean over seeds. A setting is near it where the "
        f"{100 * confidence:g} % interval of their paired difference, over seeds and prompts, does not go below "
        f"-{margin:g}. Recommended is {recommended}."
    )


def _eligible(best: Setting, same_others: bool, some_left_out: bool) -> str:
    """Sentence about the eligible settings, unless all are and they differ in the weight alone."""
    text = ""
    if best.others and same_others:
        text += " Only settings that share the best one's other parameters are looked at."
    elif best.others:
        text += (
            " No setting shares the best one's other parameters, so all are looked at, and they differ in more "
            "than this weight."
        )
    if some_left_out:
        text += " Settings with a seed that does not count cannot be recommended."
    return text
