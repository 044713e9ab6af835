"""Cost of trials, and of a gain over the baseline. Called by results.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyray.report.sweep.settings import Setting
from polyray.report.sweep.trials import Trial

COSTS = ("core_hours", "gpu_hours", "tokens", "seconds")
POINT = 0.01
"""Gains are counted in hundredths of the criterion."""


def total_cost(trials: Sequence[Trial]) -> dict[str, float]:
    """Sums over all trials, ended well or not."""
    return {name: float(sum(getattr(trial, name) for trial in trials)) for name in COSTS}


def setting_cost(setting: Setting, gain: dict[str, Any] | None) -> dict[str, Any]:
    """Mean cost of a trial that counts, and that cost per hundredth of gain.

    `gain` is the comparison of the criterion with the baseline; a gain that is not shown has no price, and
    `per_point` is None then.
    """
    count = len(setting.members)
    per_trial = {name: total / count for name, total in total_cost(setting.members).items()}
    is_shown = gain is not None and gain["verdict"] == "higher"
    return {
        "setting": setting.label,
        "value": setting.value,
        "per_trial": per_trial,
        "gain": None if gain is None else gain["difference"],
        "verdict": None if gain is None else gain["verdict"],
        "per_point": {name: cost / (gain["difference"] / POINT) for name, cost in per_trial.items()}
        if gain is not None and is_shown
        else None,
    }
