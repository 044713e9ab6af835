"""Contribution of each part of an adapter, from evaluations of it whole and without each (ablation.py).

Called by polyray analyze ablation, and for its table by polyray/shelf/research/evaluated/tables.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WHOLE = "whole adapter"
"""The name of that model in the evaluation."""


def contributions(comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Contribution of each part to each metric: the whole adapter's value minus the value without the part.

    `comparisons` as in metrics.json, of every ablation with WHOLE. Intervals are paired by prompt, p-values corrected
    over all parts and metrics there.
    """
    entries = []
    for entry in comparisons:
        if entry["baseline"] != WHOLE:
            continue
        entries.append(
            {
                "part": str(entry["model"]).removeprefix("without "),
                "metric": entry["metric"],
                "k": entry["k"],
                "whole": entry["baseline_mean"],
                "without": entry["mean"],
                "contribution": -entry["difference"],
                "low": -entry["high"],
                "high": -entry["low"],
                "p_adjusted": entry["p_adjusted"],
            }
        )
    return entries
