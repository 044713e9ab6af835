"""Showing that quality is kept: non-inferiority and equivalence within a stated margin (TOST).

A large p-value of a difference test shows nothing; this does. The margin is fixed before looking at the data.
Higher is better: hand in negated differences of what should be small. Called by comparison.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import finite_vector
from polyray.metrics.clusters import cluster_totals
from polyray.metrics.significance import standard_error


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """The verdict of two one-sided t tests.

    Example:
        NonInferiority(difference=-.002, margin=.02, low=-.011, high=.007, p_non_inferior=.0007,
                       p_equivalent=.0007, alpha=.05, non_inferior=True, equivalent=True)
    """

    difference: float
    margin: float
    low: float
    """Bounds of the 1 - 2 alpha interval: non-inferior means low > -margin, equivalent also high < margin."""
    high: float
    p_non_inferior: float
    """p-value of "the difference is -margin or less"."""
    p_equivalent: float
    """p-value of "the difference is margin or more in size": the larger of the two one-sided p-values."""
    alpha: float
    non_inferior: bool
    equivalent: bool

    def as_json(self) -> dict[str, Any]:
        """JSON entry."""
        return {name: getattr(self, name) for name in self.__slots__}


def tost_non_inferiority(
    differences: npt.ArrayLike,
    margin: float,
    *,
    clusters: npt.ArrayLike | None = None,
    alpha: float = 0.05,
) -> NonInferiority:
    """Two one-sided t tests (Schuirmann 1987) of the mean difference against -margin and +margin.

    Args:
        differences: [P] new model - old model, higher is better.
        margin: > 0, the largest loss that counts as none, in the unit of the values.
        clusters: [P] labels; the standard error is then that of clusters (significance.standard_error).
        alpha: level of each one-sided test.

    Raises:
        ValueError: margin <= 0, alpha outside (0, 0.5), fewer than 2 clusters, NaN.
    """
    from scipy import stats

    if not (np.isfinite(margin) and margin > 0):
        raise ValueError(f"margin={margin} must be above 0: the largest loss that is still acceptable")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha={alpha} must lie between 0 and 0.5, e.g. 0.05")
    totals = cluster_totals(finite_vector(differences, "differences"), clusters)
    error, mean, degrees = standard_error(totals), totals.mean, len(totals) - 1
    if error > 0:
        p_above_lower = float(stats.t.sf((mean + margin) / error, degrees))
        p_below_upper = float(stats.t.cdf((mean - margin) / error, degrees))
    else:
        p_above_lower, p_below_upper = float(mean <= -margin), float(mean >= margin)
    reach = float(stats.t.ppf(1 - alpha, degrees)) * error
    return NonInferiority(
        difference=mean,
        margin=float(margin),
        low=mean - reach,
        high=mean + reach,
        p_non_inferior=p_above_lower,
        p_equivalent=max(p_above_lower, p_below_upper),
        alpha=alpha,
        non_inferior=p_above_lower < alpha,
        equivalent=max(p_above_lower, p_below_upper) < alpha,
    )
