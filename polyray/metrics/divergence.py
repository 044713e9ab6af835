"""Test whether one series rises while another falls, for monitors.

For each series the Mann-Kendall trend test (Mann 1945, Kendall 1975): Kendall's tau of the values with their
order, one-sided; and the Theil-Sen line (Sen 1968): slope x (T - 1) is the estimated change over the window.
Both are free of the values' distribution. The test takes the values as independent given their means: the
noise of a step's mean is, since every step asks other prompts. The test is about the means themselves, drift
included. Not here: the source of the series (learner/monitors.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import finite_vector


@dataclass(frozen=True, slots=True)
class Trend:
    """e.g. Trend(change=0.08, p_value=1e-5)."""

    change: float
    """Theil-Sen slope x (T - 1), in the values' own unit."""
    p_value: float
    """One-sided, against "no trend", for a rise or for a fall as was asked."""


def monotone_trend(values_T: npt.ArrayLike, direction: Literal["rise", "fall"]) -> Trend:
    """The trend of a series in its order; a constant series has change 0 and p-value 1.

    The p-value is exact for short series without ties, else asymptotic with the correction for ties.

    Raises:
        ValueError: fewer than 3 values, NaN.
    """
    from scipy import stats

    values = finite_vector(values_T, "values_T")
    if len(values) < 3:
        raise ValueError(f"values_T has {len(values)} entries; a trend needs at least 3")
    if (values == values[0]).all():
        return Trend(0.0, 1.0)
    order = np.arange(len(values))
    test: Any = stats.kendalltau(order, values, alternative="greater" if direction == "rise" else "less")
    line: Any = stats.theilslopes(values, order)
    return Trend(float(line.slope) * (len(values) - 1), float(test.pvalue))


def parted(
    trained_T: npt.ArrayLike,
    second_T: npt.ArrayLike,
    *,
    min_rise: float,
    max_fall: float,
    significance: float,
) -> bool:
    """Whether `trained_T` rose by `min_rise` or more and `second_T` fell by more than `max_fall`, significantly.

    Both one-sided tests must reject at `significance`, so the chance of a false alarm in a window is at most that
    (intersection-union test), for any correlation of the two series; if neither has a trend it is about
    its square. Windows that overlap are not corrected for: choose `significance` for the length of the run.

    Raises:
        ValueError: different lengths, fewer than 3 values, NaN.
    """
    trained, second = finite_vector(trained_T, "trained_T"), finite_vector(second_T, "second_T")
    if len(trained) != len(second):
        raise ValueError(
            f"trained_T has {len(trained)} entries but second_T {len(second)}; give one per step"
        )
    rise = monotone_trend(trained, "rise")
    if rise.change < min_rise or rise.p_value > significance:
        return False
    fall = monotone_trend(second, "fall")
    return -fall.change > max_fall and fall.p_value <= significance
