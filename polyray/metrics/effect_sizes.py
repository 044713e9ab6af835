"""Effect sizes, in units that do not depend on the metric: Cohen's d, d_z, Cliff's delta.

Not here: whether it could be chance (significance.py). d and delta compare two samples and ignore that
prompts are paired; d_z is for pairs. Called by comparison.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, finite_vector

_ROUNDING = 1e-12
"""Relative."""


def cohens_d(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """(mean(a) - mean(b)) / pooled standard deviation, with n - 1 (Cohen 1988).

    Without any spread: 0 for equal means, else infinite with the sign of the difference. Raises ValueError for
    fewer than 2 values on a side.
    """
    first, second = finite_vector(a, "a", at_least=2), finite_vector(b, "b", at_least=2)
    squares = _squares(first) + _squares(second)
    pooled = np.sqrt(squares / (len(first) + len(second) - 2))
    return _standardised(_mean(first) - _mean(second), float(pooled))


def cohens_d_z(differences: npt.ArrayLike) -> float:
    """Mean / standard deviation (n - 1) of the paired differences: the effect size of the paired t test.

    Not comparable with d: it grows with the correlation of the pairs. Limits as in `cohens_d`.
    """
    vector = finite_vector(differences, "differences", at_least=2)
    return _standardised(_mean(vector), float(np.sqrt(_squares(vector) / (len(vector) - 1))))


def cliffs_delta(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """P(a > b) - P(a < b) over all n_a n_b pairs, in [-1, 1] = 2 U / (n_a n_b) - 1 (Cliff 1993).

    O(n log n): sorted, not enumerated.
    """
    first, second = finite_vector(a, "a"), np.sort(finite_vector(b, "b"))
    below = np.searchsorted(second, first, side="left").sum()
    above = (len(second) - np.searchsorted(second, first, side="right")).sum()
    return float((int(below) - int(above)) / (len(first) * len(second)))


def _is_constant(vector: Floats) -> bool:
    """Equal but for rounding, as differences of equal values are."""
    return bool(np.ptp(vector) <= _ROUNDING * np.abs(vector).max())


def _mean(vector: Floats) -> float:
    # The mean of equal values is rounded, too, and depends on how many there are.
    return float(vector[0] if _is_constant(vector) else vector.mean())


def _squares(vector: Floats) -> float:
    """Sum of squared deviations."""
    return 0.0 if _is_constant(vector) else float(((vector - vector.mean()) ** 2).sum())


def _standardised(difference: float, deviation: float) -> float:
    if deviation > 0:
        return difference / deviation
    return float(np.copysign(np.inf, difference)) if difference else 0.0
