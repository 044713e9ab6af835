"""Metrics from several means over prompts: regret of a selector, efficiency of diversity.

They are functions of several means (ratios, a point on a curve), so they are computed from the means and not per
prompt. Called by scoring.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from polyray.evaluation.bootstrap import ClusterBootstrap
from polyray.evaluation.per_prompt import PromptTable
from polyray.metrics.efficiency import (
    collapse_point,
    diversity_efficiency_null,
    diversity_efficiency_ratio,
)
from polyray.metrics.pass_at_k import pass_at_k
from polyray.metrics.selection import selection_efficiency

MAX_CURVE = 128
"""Collapse points are looked for up to here."""
Entry = dict[str, float | int | None]
"""{"value", "low", "high"}; null where there is no number."""


def derived_values(
    table: PromptTable, ks: Sequence[int], usq_metrics: Sequence[str], bootstrap: ClusterBootstrap
) -> dict[str, dict[str, Entry]]:
    """metric -> k or "value" -> entry: regret, selection efficiency, DER with its null, collapse point."""
    found: dict[str, dict[str, Entry]] = {}
    for metric in usq_metrics:
        name = metric.partition("/")[2]
        suffix = f"/{name}" if name else ""
        regret, efficiency = _selection(table, ks, metric, bootstrap)
        found[f"regret_at_k{suffix}"] = regret
        found[f"selection_efficiency_at_k{suffix}"] = efficiency
    curve_PK = _pass_curve(table)
    within = [k for k in ks if k <= curve_PK.shape[1]]
    found |= _der(curve_PK, within, bootstrap)
    found["collapse_point"] = {"value": _collapse(curve_PK, bootstrap)}
    return found


def _selection(
    table: PromptTable, ks: Sequence[int], metric: str, bootstrap: ClusterBootstrap
) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Oracle minus USQ, and (USQ - random) / (oracle - random): 0 for a blind pick, 1 for the best one."""
    random_P = table.values["mean_reward", "value"]
    regret: dict[str, Entry] = {}
    efficiency: dict[str, Entry] = {}
    for k in ks:
        columns_PM = np.stack(
            [table.values[metric, str(k)], table.values["best_at_k", str(k)], random_P], axis=1
        )
        both = bootstrap.intervals_of(_regret_and_efficiency, columns_PM)
        regret[str(k)], efficiency[str(k)] = (as_entry(*(part[at] for part in both)) for at in (0, 1))
    return regret, efficiency


def _regret_and_efficiency(means: np.ndarray) -> np.ndarray:
    usq, oracle, random = means[..., 0], means[..., 1], means[..., 2]
    return np.stack([oracle - usq, selection_efficiency(usq, oracle, random)], axis=-1)


def _pass_curve(table: PromptTable) -> np.ndarray:
    """[P, K] pass@k of every prompt for all k = 1..K, K the fewest samples of any prompt (at most MAX_CURVE)."""
    longest = min(int(table.num_scored_P.min()), MAX_CURVE)
    columns = [pass_at_k(table.num_scored_P, table.num_correct_P, k) for k in range(1, longest + 1)]
    return np.stack([np.asarray(column) for column in columns], axis=1)


def _der(curve_PK: np.ndarray, ks: Sequence[int], bootstrap: ClusterBootstrap) -> dict[str, dict[str, Entry]]:
    """pass@k / (k pass@1) of the means, and its null: the value for one pass@1 on every prompt.

    Both fall when pass@1 rises, for any diversity, so neither is read alone (methods: 1 - (1 - p)^k over k p).
    """

    def ratios(means: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [diversity_efficiency_ratio(means, ks), diversity_efficiency_null(means, ks)], axis=-1
        )

    parts = bootstrap.intervals_of(ratios, curve_PK)
    entries = [as_entry(*(part[at] for part in parts)) for at in range(2 * len(ks))]
    names = [str(k) for k in ks]
    return {
        "diversity_efficiency_ratio": dict(zip(names, entries[: len(ks)], strict=True)),
        "diversity_efficiency_ratio_null": dict(zip(names, entries[len(ks) :], strict=True)),
    }


def _collapse(curve_PK: np.ndarray, bootstrap: ClusterBootstrap) -> Entry:
    """The collapse point of the mean curve over all k; null where the gains never stay small."""
    never = curve_PK.shape[1] + 1

    def points(means: np.ndarray) -> np.ndarray:
        rows = [collapse_point(dict(enumerate(row, 1))) for row in means.reshape(-1, means.shape[-1])]
        found = np.array([float(never) if point is None else point for point in rows])
        return found.reshape(*means.shape[:-1], 1)

    bounds = [float(part[0]) for part in bootstrap.intervals_of(points, curve_PK)]
    return as_entry(*(math.nan if bound > never - 1 else bound for bound in bounds))


def as_entry(value: Any, low: Any, high: Any) -> Entry:
    """JSON entry of a value and its interval; null for undefined numbers."""
    numbers = (float(value), float(low), float(high))
    shown = [number if math.isfinite(number) else None for number in numbers]
    return dict(zip(("value", "low", "high"), shown, strict=True))
