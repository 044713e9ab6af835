"""Weights of reactions: certainty of differences, transforms of counts, the temperature of preferences.

Not here: the losses (algorithms/preference.py). Called by the engagement reward model. Suffix _P = pairs,
_N = completions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri, polygamma
from scipy.stats import rankdata

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3


def log_odds_variance(
    clicks_N: np.ndarray, impressions_N: np.ndarray, rate: float, weight: float
) -> np.ndarray:
    """[N] posterior variance of the log-odds of a click under the prior Beta(rate * weight, (1 - rate) * weight).

    The logit of a Beta(a, b) variable has variance trigamma(a) + trigamma(b), with a = clicks + rate * weight and
    b = impressions - clicks + (1 - rate) * weight. Its inverse is the precision that regression is weighted by.
    """
    a_N = np.asarray(clicks_N, np.float64) + rate * weight
    b_N = np.asarray(impressions_N, np.float64) - np.asarray(clicks_N, np.float64) + (1 - rate) * weight
    return polygamma(1, a_N) + polygamma(1, b_N)


def certainty_weights(gap_P: np.ndarray, variance_P: np.ndarray) -> np.ndarray:
    """[P] in [0, 1]: 2 Phi(gap / sqrt(variance)) - 1, how much surer than a coin the sign of a difference is.

    With q = Phi(z) the probability that the better one is really better, the expected Bradley-Terry loss
    q * l(d) + (1 - q) * l(-d) has at d = 0 the gradient of this weight times l(d).
    """
    return 2 * ndtr(np.asarray(gap_P, np.float64) / np.sqrt(variance_P)) - 1


def gap_weights(gap_P: np.ndarray, scale: float) -> np.ndarray:
    """[P] in (0, 1): gap / (gap + scale). A gap of `scale` (the median gap of the training pairs) weighs 1/2.

    It grows with the gap and saturates: 300 votes more are no hundred times surer than 3. Raises ValueError for a
    scale that is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale={scale} must be positive")
    gap_P = np.asarray(gap_P, np.float64)
    return gap_P / (gap_P + scale)


def log_counts(counts_N: Sequence[float] | np.ndarray) -> np.ndarray:
    """[N] sign(x) log(1 + |x|): counts where differences mean ratios; votes may be negative."""
    counts_N = np.asarray(counts_N, np.float64)
    return np.sign(counts_N) * np.log1p(np.abs(counts_N))


def normal_scores(values_N: Sequence[float] | np.ndarray) -> np.ndarray:
    """[N] Phi^-1((rank - 1/2) / N), equal values sharing their mean rank: only the order of `values_N` is left."""
    values_N = np.asarray(values_N, np.float64)
    return ndtri((rankdata(values_N) - 0.5) / max(1, values_N.size))


def fitted_temperature(difference_P: np.ndarray) -> float:
    """T > 0 that minimises sum_P -q log sigmoid(d_P / T) - (1 - q) log sigmoid(-d_P / T), d_P = better minus worse.

    Temperature scaling (Guo et al. 2017) of the logit of a pair; q = (P + 1) / (P + 2) instead of 1 is Platt's
    correction (1999), without which a few pairs that are all right would make every probability 1. Within
    [MIN_TEMPERATURE, MAX_TEMPERATURE]; scores that say nothing end at the upper one. Raises ValueError without pairs.
    """
    difference_P = np.asarray(difference_P, np.float64)
    if difference_P.size == 0 or not np.isfinite(difference_P).all():
        raise ValueError(
            f"{difference_P.size} pairs: a temperature needs at least one, and finite differences"
        )

    q = (difference_P.size + 1) / (difference_P.size + 2)

    def loss(log_temperature: float) -> float:
        logit_P = difference_P * np.exp(-log_temperature)
        return float((q * np.logaddexp(0, -logit_P) + (1 - q) * np.logaddexp(0, logit_P)).mean())

    bounds = (float(np.log(MIN_TEMPERATURE)), float(np.log(MAX_TEMPERATURE)))
    # The loss is convex in 1/T, so it has one valley in log T.
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))
