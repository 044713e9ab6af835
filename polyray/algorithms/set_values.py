"""Values of set objectives by definition: many sets at once, no closed form.

Used if closed forms do not apply: sets weighted one by one (groups of an older policy, stale_credits.py). The tests
hold every closed form against these. Suffix _M = sets, _K = members of one, _G = samples of one prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb, log

import numpy as np
import numpy.typing as npt

from polyray.algorithms.kernel_credits import gated_distances
from polyray.algorithms.subset_credits import SetFunction
from polyray.metrics.arrays import Floats, Integers
from polyray.types import WRONG_CLASS

SetValues = Callable[[Integers], Floats]
"""[M, k] sample indices -> [M] values of those sets."""


def class_values(objective: str, quality_G: Floats, classes_G: npt.ArrayLike) -> SetValues:
    """cluster, distinct_correct, coverage, entropy or simpson; class -1 never counts."""
    classes = np.asarray(classes_G)
    names = np.unique(classes[classes != WRONG_CLASS])

    def values(sets_MK: Integers) -> Floats:
        k, of_MK, quality_MK = sets_MK.shape[1], classes[sets_MK], quality_G[sets_MK]
        total_M = np.zeros(len(sets_MK))
        present_M = (of_MK != WRONG_CLASS).mean(axis=1)
        if objective == "entropy":
            total_M += present_M * np.log(np.where(present_M > 0, present_M, 1.0)) / log(k)
        for name in names:
            member_MK = of_MK == name
            share_M = member_MK.mean(axis=1)
            if objective in ("cluster", "distinct_correct"):
                total_M += (share_M > 0) / k
            elif objective == "coverage":
                total_M += np.where(member_MK, quality_MK, 0.0).max(axis=1) / k
            elif objective == "entropy":
                total_M -= share_M * np.log(np.where(share_M > 0, share_M, 1.0)) / log(k)
            else:
                total_M += share_M * (present_M - share_M)
        return total_M * (quality_MK.mean(axis=1) if objective == "cluster" else 1.0)

    return values


def distance_values(objective: str, quality_G: Floats, distance_GG: Floats) -> SetValues:
    """pairwise, product or gated."""
    distance = gated_distances(quality_G, distance_GG) if objective == "gated" else distance_GG

    def values(sets_MK: Integers) -> Floats:
        mean_M = minors(distance, sets_MK).sum(axis=(1, 2)) / (2 * comb(sets_MK.shape[1], 2))
        return mean_M * (quality_G[sets_MK].mean(axis=1) if objective == "product" else 1.0)

    return values


def mean_values(quality_G: Floats) -> SetValues:
    """Mean quality."""
    return lambda sets_MK: quality_G[sets_MK].mean(axis=1)


def max_values(quality_G: Floats) -> SetValues:
    """Best quality."""
    return lambda sets_MK: quality_G[sets_MK].max(axis=1)


def determinant_values(kernel_GG: Floats) -> SetValues:
    """Determinant of the kernel's minor over each set, negative eigenvalues counted as 0."""
    return lambda sets_MK: np.maximum(np.linalg.eigvalsh(minors(kernel_GG, sets_MK)), 0.0).prod(axis=1)


def one_by_one(set_function: SetFunction) -> SetValues:
    """Any function of one set."""
    return lambda sets_MK: np.array([set_function(tuple(members)) for members in sets_MK.tolist()])


def minors(matrix_GG: Floats, sets_MK: Integers) -> Floats:
    """[M, k, k]: the rows and columns of each set."""
    return matrix_GG[sets_MK[:, :, None], sets_MK[:, None, :]]
