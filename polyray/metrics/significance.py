"""Two-sided tests of "no difference" between two models on the same prompts.

The primary one is the sign-flip permutation test: it asks for nothing but exchangeable signs, and its unit is
the cluster of prompts. Mann-Whitney ignores the pairing and is offered because others report it. Not here:
adjusting p-values for many tests (multiplicity.py), showing that two models are equal (non_inferiority.py).
Called by comparison.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, finite_vector
from polyray.metrics.clusters import ClusterTotals, cluster_totals

_EXACT_CLUSTERS = 16
"""2^16 sign patterns are enumerated in milliseconds."""
_FLIPS_AT_ONCE = 1_000_000
_ROUNDING = 1e-12
"""Relative: differences of pass rates that are equal as fractions differ by rounding."""


@dataclass(frozen=True, slots=True)
class SignificanceTest:
    """One test's verdict.

    Example:
        SignificanceTest("sign_flip_permutation", statistic=.031, p_value=.0041, num_units=120, exact=False)
    """

    name: str
    statistic: float
    """Mean difference or U."""
    p_value: float
    num_units: int
    """Number of independent units: clusters, for Mann-Whitney values."""
    exact: bool
    """The p-value follows from the test's exact null distribution, not from a limit or random flips."""

    def as_json(self) -> dict[str, Any]:
        """JSON entry."""
        return {
            "name": self.name,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "num_units": self.num_units,
            "exact": self.exact,
        }


def sign_flip_permutation_test(
    differences: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> SignificanceTest:
    """Fisher's randomisation test: is the mean difference larger than with random signs?

    The sign of a whole cluster is flipped, i.e. the two models are exchanged on it. All 2^C patterns are
    enumerated for up to 16 clusters that differ (clusters without a difference never change the mean);
    otherwise `permutations` random ones give p = (1 + hits) / (1 + permutations), which is valid and never 0.

    Args:
        differences: [P] a - b per prompt.
        clusters: [P] labels; None: each prompt by itself.
        permutations: random patterns where enumeration is too long.
        seed: of the random patterns.
    """
    totals = _totals(differences, clusters)
    if permutations < 1:
        raise ValueError(f"permutations={permutations} must be at least 1; 10000 is usual")
    sums = totals.sums_C[totals.sums_C != 0]
    tolerance = _ROUNDING * np.abs(sums).sum()
    exact = len(sums) <= _EXACT_CLUSTERS
    if exact:
        flipped = np.zeros(1)
        for value in sums:
            flipped = np.concatenate((flipped + value, flipped - value))
        p_value = _hits(flipped, sums.sum(), tolerance) / len(flipped)
    else:
        hits = 0
        generator = np.random.default_rng(seed)
        at_once = max(1, _FLIPS_AT_ONCE // len(sums))
        for start in range(0, permutations, at_once):
            flipped = _random_flips(sums, min(at_once, permutations - start), generator)
            hits += _hits(flipped, sums.sum(), tolerance)
        p_value = (1 + hits) / (1 + permutations)
    return SignificanceTest("sign_flip_permutation", totals.mean, p_value, len(totals), exact)


def mann_whitney(a: npt.ArrayLike, b: npt.ArrayLike) -> SignificanceTest:
    """Mann-Whitney U of two samples that are *not* paired; ignores pairs and clusters.

    Exact where there are no ties and one side has at most 8 values, else the normal limit.
    """
    from scipy import stats

    first, second = finite_vector(a, "a"), finite_vector(b, "b")
    together = np.concatenate((first, second))
    num_values = len(together)
    if together.min() == together.max():
        return SignificanceTest("mann_whitney", len(first) * len(second) / 2, 1.0, num_values, True)
    exact = min(len(first), len(second)) <= 8 and len(np.unique(together)) == num_values
    found: Any = stats.mannwhitneyu(first, second, method="exact" if exact else "asymptotic")
    return SignificanceTest("mann_whitney", float(found.statistic), float(found.pvalue), num_values, exact)


def standard_error(totals: ClusterTotals) -> float:
    """Standard error of the mean over prompts, linearised over clusters; sd / sqrt(P) for clusters of one.

    Differences that are equal but for rounding have 0. Raises ValueError for fewer than 2 clusters.
    """
    count = len(totals)
    if count < 2:
        raise ValueError(
            f"{count} cluster alone has no standard error; at least 2 are needed: evaluate more prompts"
        )
    residuals = totals.sums_C - totals.mean * totals.sizes_C
    if np.abs(residuals).max() <= _ROUNDING * np.abs(totals.sums_C).max():
        return 0.0
    return float(np.sqrt(count / (count - 1) * (residuals**2).sum()) / totals.sizes_C.sum())


def _totals(differences: npt.ArrayLike, clusters: npt.ArrayLike | None) -> ClusterTotals:
    return cluster_totals(finite_vector(differences, "differences"), clusters)


def _random_flips(sums: Floats, rows: int, generator: np.random.Generator) -> Floats:
    """[rows] sums under random signs."""
    num_bytes = -(-len(sums) // 8)
    drawn = np.frombuffer(generator.bytes(rows * num_bytes), dtype=np.uint8).reshape(rows, num_bytes)
    kept = np.unpackbits(drawn, axis=1, count=len(sums)).astype(np.float64)
    return 2 * np.einsum("rc,c->r", kept, sums) - sums.sum()


def _hits(flipped: Floats, observed: float, tolerance: float) -> int:
    """Number of flipped sums at least as extreme as the observed one, up to rounding."""
    return int(np.count_nonzero(np.abs(flipped) >= abs(observed) - tolerance))
