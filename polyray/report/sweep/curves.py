"""Values of each setting: means over its seeds with hierarchical intervals, and each seed by itself.

An interval resamples seeds, then clusters of prompts (polyray.metrics.hierarchical_intervals); with one seed it is
over prompts alone. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyray.evaluation.curves import Entry, as_entry
from polyray.evaluation.per_prompt import MetricKey
from polyray.metrics import hierarchical_intervals
from polyray.report.numbers import is_number
from polyray.report.run_data import read_lines
from polyray.report.sweep.settings import Setting
from polyray.report.sweep.values import SweepValues

SHARE_KEY = "advantage_share_diversity"
CURVES = ("pass_at_k", "usq_at_k", "distinct_correct_at_k")


def hierarchical_entries(
    settings: Sequence[Setting], values: SweepValues, keys: Sequence[MetricKey], seed: int
) -> dict[str, dict[MetricKey, Entry]]:
    """label -> key -> {"value", "low", "high"} over the setting's seeds and prompts; one drawing for all."""
    cells = [(setting, key) for setting in settings for key in keys]
    intervals = hierarchical_intervals(
        [values.matrix(setting.members, key) for setting, key in cells],
        values.clusters,
        values.resamples,
        values.confidence,
        seed,
    )
    found: dict[str, dict[MetricKey, Entry]] = {}
    for (setting, key), interval in zip(cells, intervals, strict=True):
        found.setdefault(setting.label, {})[key] = as_entry(interval.value, interval.low, interval.high)
    return found


def curve_keys(values: SweepValues, ks: Sequence[int]) -> list[MetricKey]:
    """Keys of the metrics of CURVES that every trial has."""
    return [(metric, str(k)) for metric in CURVES if values.has((metric, str(ks[0]))) for k in ks]


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
