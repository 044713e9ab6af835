"""What each setting is worth: means over its seeds with hierarchical intervals, and each seed by itself.

An interval resamples seeds, then clusters of prompts (polyray.metrics.hierarchical_bootstrap); with one seed it is
over prompts alone. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.analysis.numbers import is_number
from polyray.analysis.run_data import read_lines
from polyray.analysis.sweep.settings import Setting
from polyray.analysis.sweep.values import SweepValues
from polyray.evaluation.curves import Entry, as_entry
from polyray.evaluation.per_prompt import MetricKey
from polyray.metrics import hierarchical_bootstrap

SHARE_KEY = "advantage_share_diversity"
CURVES = ("pass_at_k", "usq_at_k", "distinct_correct_at_k")


def hierarchical_entry(setting: Setting, values: SweepValues, key: MetricKey, seed: int) -> Entry:
    """{"value", "low", "high"} over the setting's seeds and prompts."""
    found = hierarchical_bootstrap(
        values.matrix(setting.members, key), values.clusters, values.resamples, values.confidence, seed
    )
    return as_entry(found.value, found.low, found.high)


def setting_curves(
    setting: Setting, values: SweepValues, ks: Sequence[int], seed: int
) -> dict[str, dict[str, Entry]]:
    """metric -> k -> entry, for the metrics of CURVES that every trial has."""
    return {
        metric: {str(k): hierarchical_entry(setting, values, (metric, str(k)), seed) for k in ks}
        for metric in CURVES
        if values.has((metric, str(ks[0])))
    }


def seed_means(setting: Setting, values: SweepValues, keys: Mapping[str, MetricKey]) -> list[dict[str, Any]]:
    """Trial, seed and the mean over prompts of each metric in `keys`, a row per seed that counts."""
    return [
        {"trial_id": trial.trial_id, "seed": trial.seed}
        | {name: float(values.tables[trial.trial_id].values[key].mean()) for name, key in keys.items()}
        for trial in setting.members
    ]


def advantage_share(run_dir: Path | None) -> float | None:
    """Mean over steps of the share of the advantages' variance that is due to diversity.

    Steps without any advantage have no share and are left out. None where the run logged none, as an objective
    without a diversity part does.
    """
    rows = [] if run_dir is None else read_lines(run_dir / "metrics.jsonl")
    shares = [
        row[SHARE_KEY]
        for row in rows
        if is_number(row.get(SHARE_KEY)) and (row[SHARE_KEY] or row.get("advantage_share_quality"))
    ]
    return float(np.mean(shares)) if shares else None
