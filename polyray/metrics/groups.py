"""Measures of one scored group that training and evaluation share."""

from __future__ import annotations

import numpy as np

from polyray.types import ScoredGroup

PASS_THRESHOLD = 1.0 - 1e-9
"""Rewards at or above it are passes: a verifier says 1, and sums of shares may miss it by rounding."""


def mean_pairwise_distance(group: ScoredGroup, scored_G: np.ndarray) -> float:
    """Mean distance over pairs: the task's own where there is one, else 1 where two correct classes
    differ."""
    n = int(scored_G.sum())
    if n < 2:
        return 0.0
    if group.distances_GG is not None:
        return float(group.distances_GG[np.ix_(scored_G, scored_G)].sum() / (n * (n - 1)))
    classes = group.classes_G[scored_G]
    counted = classes >= 0
    differ = (classes[:, None] != classes[None]) & counted[:, None] & counted[None]
    return float(differ.sum() / (n * (n - 1)))
