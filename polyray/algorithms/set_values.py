"""What each set objective says about one set, written as it is defined: slow, and the meaning of the closed forms.

For what the closed forms cannot do: sets weighted one by one (groups of an older policy, stale_credits.py), values of
a user's own set in a report. Called by polychromic.py; the tests hold every closed form against these.
"""

from __future__ import annotations

from itertools import combinations
from math import comb, log

import numpy as np
import numpy.typing as npt

from polyray.algorithms.kernel_credits import gated_distances
from polyray.algorithms.subset_credits import SetFunction
from polyray.metrics.arrays import Floats
from polyray.types import WRONG_CLASS


def class_set_value(objective: str, quality_G: Floats, classes_G: npt.ArrayLike) -> SetFunction:
    """cluster, distinct_correct, coverage, entropy or simpson of a set; class -1 never counts."""
    classes = np.asarray(classes_G)

    def value(subset: tuple[int, ...]) -> float:
        members, k = list(subset), len(subset)
        counted = classes[members][classes[members] != WRONG_CLASS]
        names, sizes = np.unique(counted, return_counts=True)
        if objective == "cluster":
            return float(quality_G[members].mean()) * len(names) / k
        if objective == "distinct_correct":
            return len(names) / k
        if objective == "coverage":
            return sum(max(quality_G[i] for i in members if classes[i] == name) for name in names) / k
        shares = sizes / k
        if objective == "entropy":
            return float(-(shares * np.log(shares)).sum() / log(k))
        return float((shares * (len(counted) / k - shares)).sum())

    return value


def distance_set_value(objective: str, quality_G: Floats, distance_GG: Floats) -> SetFunction:
    """pairwise, product or gated value of a set."""
    distance = gated_distances(quality_G, distance_GG) if objective == "gated" else distance_GG

    def value(subset: tuple[int, ...]) -> float:
        mean = sum(distance[a, b] for a, b in combinations(subset, 2)) / comb(len(subset), 2)
        return float(mean * (quality_G[list(subset)].mean() if objective == "product" else 1.0))

    return value


def determinant_value(kernel_GG: npt.ArrayLike) -> SetFunction:
    """Determinant of the kernel's minor over the set."""
    kernel = np.asarray(kernel_GG, dtype=np.float64)
    return lambda subset: float(np.linalg.det(kernel[np.ix_(subset, subset)]))


def mean_quality_value(quality_G: Floats) -> SetFunction:
    """Mean quality of a set."""
    return lambda subset: float(quality_G[list(subset)].mean())


def max_value(quality_G: Floats) -> SetFunction:
    """Best quality of a set."""
    return lambda subset: float(quality_G[list(subset)].max())
